#!/usr/bin/env bash
# Installs and builds what the lab, the tests and the benchmarks need. Safe to run again: finished parts are skipped.
#
#   setup.sh [PART…]     `lab checkers metallb` unless parts are given
#
#   lab        Debian packages, Kubernetes, Helm, the images pause, agnhost and nginx, the programs lab, image, demo and kubectl-lb
#   checkers   kubeconform, the OLM tools and the NetworkPolicy evaluator, which some scenarios call
#   metallb    MetalLB, which some scenarios and the benchmarks compare with
#   images     the images of this project, in target/images
#   releases   the images of other releases, which upgrade tests install
#   tests      every program and test of the workspace
#
#   LB_CACHE        directory for built programs and images; ~/.cache/lb-operator by default
#   LB_KUBERNETES   version of Kubernetes for the lab; 1.33 by default, tests/lab/kubernetes has the others
#
# Steps run in two lanes side by side, because each has long phases that use one core: Go programs and Rust programs.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${LB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lb-operator}
kubernetes=${LB_KUBERNETES:-1.33}
start=$SECONDS
[ $# -gt 0 ] || set -- lab checkers metallb
parts=" $* "

packages=(
  etcd-server containerd runc containernetworking-plugins       # the cluster
  iptables conntrack iproute2 procps util-linux                 # called by its nodes
  curl iputils-arping iputils-ping net-tools tcpdump jq         # called by the guide and the tests
  bird2                                                         # the router in the tests of BGP
  docker-registry openssl skopeo                                # a registry, and what pushes to it
  prometheus                                                    # collects metrics and evaluates alerts
  lua5.1                                                        # runs the health check for Argo CD
  busybox-static ca-certificates gcc libc6-dev git              # used to build images and programs
)

say() { printf '\033[1m[%3ds] %s\033[0m\n' $((SECONDS - start)) "$*"; }
stop() { echo "setup: $*" >&2; exit 1; }
wanted() { [[ $parts == *" $1 "* ]]; }
# Images alone need no root, no Debian and no Go.
wants_cluster() { wanted lab || wanted checkers || wanted metallb; }

# --- Checks that come before any change

check() {
  local part free
  for part in $parts; do
    [[ " lab checkers metallb images releases tests " == *" $part "* ]] || stop "no part $part: see the top of $0"
  done
  command -v cargo >/dev/null || stop "Rust is missing: install Rust 1.95 or newer and put cargo on the PATH"
  at_least 1.95 "$(cargo --version | cut -d' ' -f2)" || stop "Rust is $(cargo --version | cut -d' ' -f2): install 1.95 or newer"
  if ! wants_cluster; then
    for part in gcc git jq; do command -v $part >/dev/null || stop "$part is missing: install it"; done
    return 0
  fi
  [ "$(id -u)" = 0 ] || stop "not root: run it with sudo, because the lab creates network namespaces and mounts"
  command -v apt-get >/dev/null || stop "apt-get is missing: run it on Debian 12"
  unshare --net --mount --pid --fork true 2>/dev/null || stop "the kernel refuses new namespaces: run it on a machine, or in a container with CAP_SYS_ADMIN"
  [ -d /sys/fs/cgroup ] && [ -n "$(awk '$3 ~ /^cgroup2?$/' /proc/self/mounts)" ] || stop "no control groups are mounted: mount them below /sys/fs/cgroup"
  command -v go >/dev/null || stop "Go is missing: install Go 1.26 or newer and put its bin directory on the PATH"
  at_least 1.26 "$(go env GOVERSION | sed 's/^go//')" || stop "Go is $(go env GOVERSION): install Go 1.26 or newer"
  [ -f "$(modfile)" ] || stop "LB_KUBERNETES is $kubernetes: set it to one of $(versions)"
  free=$(df --output=avail -m "$(existing "$cache")" | tail -n 1)
  [ "$free" -ge 6000 ] || [ -x "$cache/bin/kubelet" ] || stop "only $free MB free in $cache: building takes 6000; set LB_CACHE to a larger disk"
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
existing() { local path=$1; while [ ! -d "$path" ]; do path=$(dirname "$path"); done; echo "$path"; }
modfile() { [ "$kubernetes" = 1.33 ] && echo "$root/tests/lab/kubernetes/go.mod" || echo "$root/tests/lab/kubernetes/v$kubernetes.mod"; }
versions() { (cd "$root/tests/lab/kubernetes"; echo 1.33; ls v*.mod 2>/dev/null | sed 's/^v\(.*\)\.mod$/\1/') | paste -sd, | sed 's/,/, /g'; }

# --- Steps

# plan LANE TITLE COMMAND…: lanes are first, go, rust and last.
steps=()
started=$(mktemp)
trap 'rm -f "$started"' EXIT
plan() { local lane=$1 title=$2; shift 2; steps+=("$lane|$title|$(printf '%q ' "$@")"); }

# Runs the steps of a lane in order, one line for each. Their output goes to a log.
run_lane() {
  local step lane title command log
  for step in "${steps[@]}"; do
    IFS='|' read -r lane title command <<<"$step"
    [ "$lane" = "$1" ] || continue
    say "$(flock "$started" sh -c 'echo >>"$1"; wc -l <"$1"' - "$started")/${#steps[@]} $title"
    log=$cache/logs/$(tr -cs 'a-zA-Z0-9.\n' - <<<"${title%% (*}" | cut -c1-60).log
    # Not in a condition, where the shell would ignore errors inside of the step.
    set +e
    (set -e; eval "$command") >"$log" 2>&1
    local outcome=$?
    set -e
    [ $outcome = 0 ] || { tail -n 40 "$log" >&2; stop "failed: $title; the whole output is in $log"; }
  done
}

run_steps() {
  run_lane first
  # Each lane is a process group of its own, so that a failure or Ctrl-C ends the compilers of both.
  set -m
  run_lane go & local go=$!
  run_lane rust & local rust=$!
  set +m
  trap "kill -- -$go -$rust 2>/dev/null; exit 130" INT TERM
  { wait -n $go $rust && wait $go && wait $rust; } || { kill -- -$go -$rust 2>/dev/null; exit 1; }
  trap - INT TERM
  run_lane last
}

# --- Debian packages

plan_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] || plan first "installing Debian packages: ${missing[*]}" install_packages "${missing[@]}"
}

install_packages() {
  # The lab starts these programs itself: apt must not start services of the machine.
  local policy=/usr/sbin/policy-rc.d created=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; created=yes
  fi
  trap '[ -z "$created" ] || rm -f $policy' EXIT
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# --- Go programs

# ldflags=… plan_go NAME MINUTES DIRECTORY MODFILE PACKAGE…: builds programs into $cache/go/NAME-HASH unless they are there, and
# sets $built to that directory. The hash covers everything that decides the result.
plan_go() {
  local name=$1 minutes=$2 directory=$3 modfile=$4; shift 4
  local hash; hash=$(cat "$directory"/*.go $(find "$directory" -maxdepth 1 -name "*.sh") "$modfile" "${modfile%.mod}.sum" <(go env GOVERSION GOARCH; echo "$* ${ldflags:-}") | sha256sum | cut -c1-16)
  built=$cache/go/$name-$hash
  [ ! -d "$built" ] || return 0
  plan go "building ${name/kubernetes-/Kubernetes } (first run only; about $minutes min)" go_build "$built" "$directory" "$modfile" "${ldflags:-}" "$@"
}

go_build() {
  local out=$1 directory=$2 modfile=$3 ldflags=$4; shift 4
  rm -rf "$out.part"; mkdir -p "$out.part"
  if [ -x "$directory/modfile.sh" ]; then
    temporary; "$directory/modfile.sh" "$tree"; modfile=$tree/go.mod
  fi
  (cd "$directory" && CGO_ENABLED=0 go build -v -mod=mod -modfile="$modfile" -trimpath -ldflags="-s -w $ldflags" -o "$out.part/" "$@")
  mv "$out.part" "$out"
}

# version_of MODFILE MODULE: the pinned version.
version_of() { awk -v module="$2" '$1 == module || $2 == module { print $NF; exit }' "$1"; }

# module_directory DIRECTORY MODFILE MODULE: the directory with the sources of a module.
module_directory() { (cd "$1" && go list -mod=mod -modfile="$2" -m -f '{{.Dir}}' "$3"); }

plan_lab() {
  local lab=$root/tests/lab version package flags=
  version=$(version_of "$(modfile)" k8s.io/kubernetes)
  # Otherwise the programs report no version, and a chart's kubeVersion has nothing to compare with.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${kubernetes#1.}"
  done
  ldflags=$flags plan_go "kubernetes-$kubernetes" 9 "$lab/kubernetes" "$(modfile)" . k8s.io/kubernetes/test/images/agnhost
  node=$built
  # Helm assumes this version where it cannot ask a cluster, as its released programs do.
  flags=" -X helm.sh/helm/v3/internal/version.version=$(version_of "$lab/helm/go.mod" helm.sh/helm/v3)"
  for package in pkg/chartutil pkg/lint/rules; do
    flags+=" -X helm.sh/helm/v3/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/$package.k8sVersionMinor=33"
  done
  ldflags=$flags plan_go helm 2 "$lab/helm" "$lab/helm/go.mod" helm.sh/helm/v3/cmd/helm
  helm=$built

  plan last "writing the images pause, agnhost and nginx" finish_lab
}

finish_lab() {
  local program
  # One program that goes by the name it is called by.
  for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    link "$node/kubernetes" "$program"
  done
  link "$helm/helm" helm
  # The schemas of Kubernetes' own kinds.
  [ "$cache/openapi.json" -nt "$node" ] || install -m 644 "$(module_directory "$root/tests/lab/kubernetes" "$(modfile)" k8s.io/kubernetes)/api/openapi-spec/swagger.json" "$cache/openapi.json"
  lab_images
}

plan_checkers() {
  local tools=$root/tests/tools
  plan_go kubeconform 1 "$tools/kubeconform" "$tools/kubeconform/go.mod" github.com/yannh/kubeconform/cmd/kubeconform
  kubeconform=$built
  # The validator of OLM bundles is our module's own program; opm checks the catalog.
  plan_go olm 3 "$tools/olm" "$tools/olm/go.mod" -tags containers_image_openpgp,json1 . github.com/operator-framework/operator-registry/cmd/opm
  olm=$built
  # Evaluates NetworkPolicies, because the lab's network does not enforce them.
  plan_go netpol 1 "$tools/netpol" "$tools/netpol/go.mod" .
  netpol=$built
  plan last "linking kubeconform, the OLM tools and the NetworkPolicy evaluator" finish_checkers
}

finish_checkers() {
  link "$kubeconform/kubeconform" kubeconform
  link "$olm/olm" bundle-validate
  link "$olm/opm" opm
  link "$netpol/netpol" netpol
}

plan_metallb() {
  local directory=$root/tests/lab/metallb
  plan_go metallb 2 "$directory" "$directory/go.mod" go.universe.tf/metallb/controller go.universe.tf/metallb/speaker
  metallb=$built
  plan last "writing the images of MetalLB" finish_metallb
}

link() { ln -sfn "$1" "$cache/bin/$2"; }

# --- Rust programs

build_rust() { cd "$root" && cargo build --locked "$@"; }
target() { (cd "$root" && cargo metadata --locked --no-deps --format-version 1) | jq -r .target_directory; }

# --- Images

# fresh IMAGE INPUT…: whether an image was made from these inputs; keeps them for `pack`.
fresh() {
  local image=$1; shift
  inputs=$(printf '%s\n' "$@" "$(cat "$root/tests/tools/setup.sh" "$root/tests/tools/src/image.rs" "$root/tests/tools/src/bin/image.rs" | sha256sum)")
  [ -f "$image" ] && [ "$(cat "$image.inputs" 2>/dev/null)" = "$inputs" ]
}

# pack IMAGE NAME ROOT [OPTION…]
pack() {
  local image=$1 name=$2 tree=$3; shift 3
  "$(target)/debug/image" pack --name "$name" --root "$tree" --out "$image" "$@"
  echo "$inputs" >"$image.inputs"
}

# Gives the step a directory that goes with it.
temporary() { tree=$(mktemp -d); trap "rm -rf '$tree'" EXIT; }

lab_images() {
  local images=$cache/images busybox tree; temporary
  busybox=$(dpkg-query -W -f='${Version}' busybox-static)
  if ! fresh "$images/pause.tar" "$busybox"; then
    mkdir -p "$tree/pause/bin"
    cp /bin/busybox "$tree/pause/bin/"
    pack "$images/pause.tar" lab.local/pause:1 "$tree/pause" --entrypoint /bin/busybox --entrypoint sleep --entrypoint 2147483647
  fi
  if ! fresh "$images/agnhost.tar" "$node"; then
    mkdir -p "$tree/agnhost"
    cp "$node/agnhost" "$tree/agnhost/"
    pack "$images/agnhost.tar" lab.local/agnhost:1 "$tree/agnhost" --entrypoint /agnhost --command pause
  fi
  if ! fresh "$images/nginx.tar" "$busybox"; then
    nginx_tree "$tree/nginx"
    pack "$images/nginx.tar" nginx:alpine "$tree/nginx" --entrypoint /usr/sbin/nginx --entrypoint -g --entrypoint 'daemon off;'
  fi
}

finish_metallb() {
  local directory=$root/tests/lab/metallb images=$cache/metallb program version tree; temporary
  version=$(version_of "$directory/go.mod" go.universe.tf/metallb)
  for program in controller speaker; do
    if ! fresh "$images/$program.tar" "$metallb"; then
      mkdir -p "$tree/$program"
      cp "$metallb/$program" "$tree/$program/"
      pack "$images/$program.tar" "quay.io/metallb/$program:$version" "$tree/$program" --entrypoint "/$program"
    fi
  done
  [ "$images/metallb-native.yaml" -nt "$metallb" ] || install -m 644 "$(module_directory "$directory" "$directory/go.mod" go.universe.tf/metallb)/config/manifests/metallb-native.yaml" "$images/"
}

# The package lists may be missing or old.
download() { apt-get download "$@" || { apt-get update && apt-get download "$@"; }; }

# A root with Debian's nginx, its libraries, and busybox for the shell and `hostname`. It has the command line and the page
# directory of nginx:alpine, which the guide uses.
nginx_tree() {
  local tree=$1 debs=$1.debs
  mkdir -p "$debs" "$tree"/{bin,etc/nginx,tmp,usr/share/nginx/html,var/log/nginx,var/lib/nginx,run}
  (cd "$debs" && download nginx libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g)
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
  cat >"$tree/etc/nginx/nginx.conf" <<'CONF'
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
CONF
  rm -rf "$debs"
}

check
mkdir -p "$cache"/{bin,go,images,logs,metallb}
# One at a time: two checkouts may share a cache.
exec 9>"$cache/lock"
flock --nonblock 9 || { say "waiting for another setup to finish"; flock 9; }

build_images=$root/tests/tools/build-images.sh
if wants_cluster; then plan_packages; fi
# All of the workspace is named, so that dependencies have the same features in every build.
wanted tests || plan rust "building the programs lab, image and demo (2 min at first)" build_rust --workspace --bin lab --bin image --bin demo
if wanted lab; then plan_lab; fi
if wanted checkers; then plan_checkers; fi
if wanted metallb; then plan_metallb; fi
# Release programs first: `tests` is built while the release link uses one core.
if wanted images; then plan rust "building the programs operator, controller and speaker (5 min if their sources changed)" "$build_images" programs; fi
if wanted lab; then plan rust "building kubectl-lb for the scenarios (1 min if its sources changed)" "$root/tests/tools/build-cli.sh" link; fi
if wanted releases; then plan rust "building the program of other releases (2 min if its sources changed)" "$build_images" release-program; fi
if wanted tests; then plan rust "building the workspace with its tests (4 min if its sources changed)" build_rust --workspace --all-targets; fi
if wanted images; then plan last "writing the images of this project" "$build_images" images; fi
if wanted releases; then plan last "writing the images of other releases" "$build_images" releases; fi
"$root/tests/tools/target-cache.sh" restore
run_steps
say "setup is complete: everything built is in $cache"
