{{/* The chart name in labels. */}}
{{- define "lb-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of all objects: the release name, with the chart name unless it is part of it. */}}
{{- define "lb-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The pod selector of the Deployment, which is immutable. */}}
{{- define "lb-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "lb-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of every object. */}}
{{- define "lb-operator.labels" -}}
{{ include "lb-operator.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: lb-operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The name of the operator's ServiceAccount. */}}
{{- define "lb-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "lb-operator.fullname" .) -}}
{{- end -}}

{{/* The reference of an image from (dict "name" "speaker" "root" $). */}}
{{- define "lb-operator.image" -}}
{{- $all := .root.Values.image -}}
{{- $one := index $all .name -}}
{{- if not (or $one.repository $all.registry) -}}
{{- fail "image.registry is empty and no images are published: build and push them, then set image.registry, as docs/install.md shows" -}}
{{- end -}}
{{- $repository := $one.repository | default (printf "%s/%s" (trimSuffix "/" $all.registry) .name) -}}
{{- $image := printf "%s:%s" $repository ($one.tag | default $all.tag | default .root.Chart.AppVersion) -}}
{{- if $one.digest -}}{{- printf "%s@%s" $image $one.digest -}}{{- else -}}{{- $image -}}{{- end -}}
{{- end -}}
