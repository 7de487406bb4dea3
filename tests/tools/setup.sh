#!/usr/bin/env bash
# Installs and builds everything that the lab and the tests need. Safe to run again: what is there is left alone, and a
# second run takes seconds.
#
#   LB_CACHE        where built programs and images are kept; ~/.cache/lb-operator unless set
#   LB_KUBERNETES   version of Kubernetes for the lab: 1.33 unless set; tests/lab/kubernetes lists the others
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
kubernetes=${LB_KUBERNETES:-1.33}
start=$SECONDS

packages=(
  etcd-server containerd runc containernetworking-plugins       # the cluster
  iptables conntrack iproute2 procps util-linux                 # what its nodes call
  curl iputils-arping iputils-ping net-tools tcpdump jq         # what the guide and the tests call
  busybox-static ca-certificates gcc libc6-dev git              # what images and programs are built with
)

say() { printf '\033[1m[%3ds] %s\033[0m\n' $((SECONDS - start)) "$*"; }
stop() { echo "setup: $*" >&2; exit 1; }

# --- What cannot be installed from here, said before anything is changed.

check() {
  [ "$(id -u)" = 0 ] || stop "not root: run it with sudo, the lab makes network namespaces and mounts"
  command -v apt-get >/dev/null || stop "no apt-get: run it on Debian 12"
  unshare --net --mount --pid --fork true 2>/dev/null || stop "the kernel refuses new namespaces: run it on a machine, or in a container with CAP_SYS_ADMIN"
  [ -d /sys/fs/cgroup ] && [ -n "$(awk '$3 ~ /^cgroup2?$/' /proc/self/mounts)" ] || stop "no control groups are mounted: mount them below /sys/fs/cgroup"
  command -v go >/dev/null || stop "no Go: install Go 1.26 or newer and put its bin directory on the PATH"
  at_least 1.26 "$(go env GOVERSION | sed 's/^go//')" || stop "Go is $(go env GOVERSION): install Go 1.26 or newer"
  command -v cargo >/dev/null || stop "no Rust: install Rust 1.95 or newer and put cargo on the PATH"
  at_least 1.95 "$(cargo --version | cut -d' ' -f2)" || stop "Rust is $(cargo --version | cut -d' ' -f2): install 1.95 or newer"
  [ -f "$(modfile)" ] || stop "LB_KUBERNETES is $kubernetes: it must be one of $(versions)"
  local free; free=$(df --output=avail -m "$(existing "$cache")" | tail -n 1)
  [ "$free" -ge 6000 ] || [ -x "$cache/bin/kubelet" ] || stop "$free MB free for $cache: building needs 6000; set LB_CACHE to a larger disk"
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
existing() { local path=$1; while [ ! -d "$path" ]; do path=$(dirname "$path"); done; echo "$path"; }
modfile() { [ "$kubernetes" = 1.33 ] && echo "$root/tests/lab/kubernetes/go.mod" || echo "$root/tests/lab/kubernetes/v$kubernetes.mod"; }
versions() { (cd "$root/tests/lab/kubernetes"; echo 1.33; ls v*.mod 2>/dev/null | sed 's/^v\(.*\)\.mod$/\1/') | paste -sd, | sed 's/,/, /g'; }

# --- Debian packages

install_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Debian packages: ${missing[*]}"
  # The lab starts these programs itself: no service of the machine's is to be started.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=yes
  fi
  local outcome=0
  quietly packages install_now "${missing[@]}" || outcome=$?
  [ -z "$made" ] || rm -f $policy
  return $outcome
}

install_now() {
  apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# Runs a command with its output in a log, which is shown when it fails.
quietly() {
  local log="$cache/logs/$1.log"; shift
  "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; stop "failed: $*; the whole output is in $log"; }
}

# --- Go programs

# ldflags=… go_build NAME DIRECTORY MODFILE PACKAGE…: builds programs into $cache/go/NAME-HASH, unless they are there, and sets $built
# to that directory. The hash is over everything that decides what comes out.
go_build() {
  local name=$1 directory=$2 modfile=$3; shift 3
  local hash; hash=$(cat "$directory"/*.go "$modfile" "${modfile%.mod}.sum" <(go env GOVERSION GOARCH; echo "$* ${ldflags:-}") | sha256sum | cut -c1-16)
  built=$cache/go/$name-$hash
  [ -d "$built" ] && return 0
  say "building $name"
  local part=$built.part log=$cache/logs/$name.log
  rm -rf "$part"; mkdir -p "$part"
  (cd "$directory" && CGO_ENABLED=0 go build -v -mod=mod -modfile="$modfile" -trimpath -ldflags="-s -w ${ldflags:-}" -o "$part/" "$@") 2>&1 \
    | tee "$log" | awk '!/^go: downloading/ && ++n % 250 == 0 { print "        " n " packages"; fflush() }' \
    || { tail -n 20 "$log" >&2; stop "building $name failed; the whole output is in $log"; }
  mv "$part" "$built"
}

# version_of MODFILE MODULE: the version that is pinned.
version_of() { awk -v module="$2" '$1 == module || $2 == module { print $NF; exit }' "$1"; }

# Where the sources of a module are.
module_directory() { (cd "$root/tests/lab/$1" && go list -mod=mod -modfile="$2" -m -f '{{.Dir}}' "$3"); }

build_programs() {
  local program version package flags=
  version=$(version_of "$(modfile)" k8s.io/kubernetes)
  # Without them the programs have no version to say, and a chart's kubeVersion nothing to be compared with.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${kubernetes#1.}"
  done
  ldflags=$flags go_build "kubernetes-$kubernetes" "$root/tests/lab/kubernetes" "$(modfile)" . k8s.io/kubernetes/test/images/agnhost
  local node=$built
  # One program with many names, which goes by the name it is called by.
  for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    link "$node/kubernetes" "$program"
  done
  agnhost=$node/agnhost
  # The schemas of Kubernetes' own kinds.
  install -m 644 "$(module_directory kubernetes "$(modfile)" k8s.io/kubernetes)/api/openapi-spec/swagger.json" "$cache/openapi.json"
  # Helm takes clusters that it cannot ask for one of this version, as its releases do.
  flags=" -X helm.sh/helm/v3/internal/version.version=$(version_of "$root/tests/lab/helm/go.mod" helm.sh/helm/v3)"
  for package in pkg/chartutil pkg/lint/rules; do
    flags+=" -X helm.sh/helm/v3/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/$package.k8sVersionMinor=33"
  done
  ldflags=$flags go_build helm "$root/tests/lab/helm" "$root/tests/lab/helm/go.mod" helm.sh/helm/v3/cmd/helm
  link "$built/helm" helm
  go_build kubeconform "$here/kubeconform" "$here/kubeconform/go.mod" github.com/yannh/kubeconform/cmd/kubeconform
  link "$built/kubeconform" kubeconform
  # The validator of OLM bundles is the module's own program; opm checks the catalog.
  go_build olm "$here/olm" "$here/olm/go.mod" -tags containers_image_openpgp,json1 . github.com/operator-framework/operator-registry/cmd/opm
  link "$built/olm" bundle-validate
  link "$built/opm" opm
  # Says what NetworkPolicies let pass, because the lab's network does not enforce them.
  go_build netpol "$here/netpol" "$here/netpol/go.mod" .
  link "$built/netpol" netpol
  go_build metallb "$root/tests/lab/metallb" "$root/tests/lab/metallb/go.mod" go.universe.tf/metallb/controller go.universe.tf/metallb/speaker
  metallb=$built
}

link() { ln -sfn "$1" "$cache/bin/$2"; }

# --- Images

# fresh IMAGE INPUT…: whether an image was made from just these inputs; remembers them for when it is.
fresh() {
  local image=$1; shift
  inputs=$(printf '%s\n' "$@" "$(sha256sum <"$here/setup.sh")" "$(cat "$here/src/image.rs" "$here/src/bin/image.rs" | sha256sum)")
  [ -f "$image" ] && [ "$(cat "$image.inputs" 2>/dev/null)" = "$inputs" ]
}

# pack IMAGE NAME ROOT [OPTION…]
pack() {
  local image=$1 name=$2 tree=$3; shift 3
  "$root/target/debug/image" pack --name "$name" --root "$tree" --out "$image" "$@"
  echo "$inputs" >"$image.inputs"
}

make_images() {
  local images=$cache/images tree; tree=$(mktemp -d)
  trap "rm -rf '$tree'" EXIT
  say "building the lab's own programs"
  (cd "$root" && cargo build --quiet --locked --workspace)

  local busybox; busybox=$(dpkg-query -W -f='${Version}' busybox-static)
  if ! fresh "$images/pause.tar" "$busybox"; then
    mkdir -p "$tree/pause/bin"
    cp /bin/busybox "$tree/pause/bin/"
    pack "$images/pause.tar" lab.local/pause:1 "$tree/pause" --entrypoint /bin/busybox --entrypoint sleep --entrypoint 2147483647
  fi
  if ! fresh "$images/agnhost.tar" "$agnhost"; then
    mkdir -p "$tree/agnhost"
    cp "$agnhost" "$tree/agnhost/"
    pack "$images/agnhost.tar" lab.local/agnhost:1 "$tree/agnhost" --entrypoint /agnhost --command pause
  fi
  if ! fresh "$images/nginx.tar" "$busybox"; then
    say "assembling the image nginx:alpine"
    nginx_tree "$tree/nginx"
    pack "$images/nginx.tar" nginx:alpine "$tree/nginx" --entrypoint /usr/sbin/nginx --entrypoint -g --entrypoint 'daemon off;'
  fi

  local peer=$cache/peer/metallb program
  for program in controller speaker; do
    if ! fresh "$peer/$program.tar" "$metallb"; then
      mkdir -p "$tree/metallb-$program"
      cp "$metallb/$program" "$tree/metallb-$program/"
      pack "$peer/$program.tar" "quay.io/metallb/$program:$(version_of "$root/tests/lab/metallb/go.mod" go.universe.tf/metallb)" "$tree/metallb-$program" --entrypoint "/$program"
    fi
  done
  install -m 644 "$(module_directory metallb "$root/tests/lab/metallb/go.mod" go.universe.tf/metallb)/config/manifests/metallb-native.yaml" "$peer/"
}

# The package lists may be missing or old.
download() { apt-get download "$@" || { apt-get update && apt-get download "$@"; }; }

# A root with Debian's nginx, the libraries that it names, and busybox for the shell and `hostname`. What a reader of the
# guide calls nginx:alpine: same command line, same directory for pages.
nginx_tree() {
  local tree=$1 debs=$1.debs
  mkdir -p "$debs" "$tree"/{bin,etc/nginx,tmp,usr/share/nginx/html,var/log/nginx,var/lib/nginx,run}
  (cd "$debs" && quietly nginx download nginx libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g)
  local deb
  for deb in "$debs"/*.deb; do dpkg-deb --extract "$deb" "$debs/root"; done
  mkdir -p "$tree/usr/sbin" "$tree/lib" "$tree/usr/lib"
  cp "$debs/root/usr/sbin/nginx" "$tree/usr/sbin/"
  # Libraries keep their directories; everything else in the packages is documentation and modules.
  (cd "$debs/root" && find lib lib64 usr/lib \( -name '*.so' -o -name '*.so.*' \) ! -path '*/nginx/*' ! -path '*/gconv/*' ! -path '*/engines-3/*' ! -path '*/ossl-modules/*' 2>/dev/null \
    | tar --create --files-from=- | tar --extract --directory="$tree")
  cp /bin/busybox "$tree/bin/busybox"
  local applet
  for applet in sh cat echo env grep hostname id ip ls mkdir nc ps rm sed sleep true wget; do ln -s busybox "$tree/bin/$applet"; done
  printf 'root:x:0:0:root:/:/bin/sh\nnginx:x:101:101:nginx:/nonexistent:/bin/false\n' >"$tree/etc/passwd"
  printf 'root:x:0:\nnginx:x:101:\n' >"$tree/etc/group"
  echo '<h1>Welcome to nginx!</h1>' >"$tree/usr/share/nginx/html/index.html"
  cat >"$tree/etc/nginx/nginx.conf" <<'EOF'
user nginx;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events {}
http {
  types { text/html html; text/plain txt; }
  default_type application/octet-stream;
  access_log /dev/stdout;
  server {
    listen 80;
    listen [::]:80;
    root /usr/share/nginx/html;
  }
}
EOF
  rm -rf "$debs"
}

check
mkdir -p "$cache"/{bin,go,images,logs,peer/metallb}
# One at a time: two may share a cache.
exec 9>"$cache/lock"
flock --nonblock 9 || { say "waiting for another set-up to finish"; flock 9; }
install_packages
build_programs
make_images
say "set-up is complete: Kubernetes $kubernetes in $cache"
