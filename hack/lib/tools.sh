#!/usr/bin/env bash
# Builds the programs of the lab once and caches them by version under $KOLLECT_TOOLS_DIR/tools.
# Sourced, it offers the functions; executed, it brings the named tools (default: all) up to date.
# The versions are those of hack/envtest/go.mod, hack/envtest/etcd/go.mod and hack/envtest/programs, and nowhere else;
# src/lab/tools.rs finds the programs by the same rule.

KOLLECT_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KOLLECT_TOOLS_DIR=${KOLLECT_TOOLS_DIR:-$HOME/.cache/kollect}
export KOLLECT_TOOLS_DIR

KOLLECT_ENVTEST=$KOLLECT_REPO/hack/envtest
KOLLECT_PROGRAMS=$KOLLECT_ENVTEST/programs
KOLLECT_POSTGRES_BIN=/usr/lib/postgresql/15/bin
KOLLECT_MAVEN_COPY=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies

tools_say() { printf '%-24s %s\n' "$1" "$2"; }
tools_fail() { printf 'tools: %s\n' "$*" >&2; return 1; }

# tools_module_version GO_MOD MODULE: the version that a go.mod requires.
tools_module_version() {
    awk -v module="$2" '($1 == module) {print $2; exit} ($1 == "require" && $2 == module) {print $3; exit}' "$1"
}

# tools_program NAME: package and version of a program that is built as it is published.
tools_program() { awk -v name="$1" '($1 == name) {print $2, $3; exit}' "$KOLLECT_PROGRAMS"; }

# tools_version NAME
tools_version() {
    case $1 in
        etcd) tools_module_version "$KOLLECT_ENVTEST/etcd/go.mod" go.etcd.io/etcd/server/v3 ;;
        kube-apiserver | kube-controller-manager | kubectl)
            tools_module_version "$KOLLECT_ENVTEST/go.mod" k8s.io/kubernetes ;;
        *)
            if [ -z "$(tools_program "$1")" ]; then
                tools_fail "no tool is called \"$1\""
                return 1
            fi
            tools_program "$1" | cut -d' ' -f2
            ;;
    esac
}

# tools_path NAME: where the program is once built.
tools_path() {
    local version
    version=$(tools_version "$1") || return 1
    printf '%s/tools/%s-%s/bin/%s\n' "$KOLLECT_TOOLS_DIR" "$1" "$version" "$1"
}

# tools_stamp VERSION: linker flags which make a Kubernetes program name its own release.
tools_stamp() {
    local version=$1 major minor package flags=""
    major=$(cut -d. -f1 <<<"${version#v}")
    minor=$(cut -d. -f2 <<<"${version#v}")
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
        flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=$version"
    done
    printf '%s\n' "$flags"
}

# tools_stamp_helm VERSION: the same for Helm, which otherwise takes itself for a client of Kubernetes 1.20.
tools_stamp_helm() {
    local version=$1 kubernetes package flags=""
    kubernetes=$(tools_version kubectl)
    flags+=" -X helm.sh/helm/v3/internal/version.version=$version"
    for package in chartutil lint/rules; do
        flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=$(cut -d. -f1 <<<"${kubernetes#v}")"
        flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$(cut -d. -f2 <<<"${kubernetes#v}")"
    done
    printf '%s\n' "$flags"
}

# tools_compile NAME VERSION BIN_DIR: what builds the program, says what is wrong on standard error.
tools_compile() {
    local name=$1 version=$2 bin=$3 flags="-s -w" program
    export CGO_ENABLED=0
    program=$(tools_program "$name")
    if [ -n "$program" ]; then
        [ "$name" != helm ] || flags+=$(tools_stamp_helm "$version")
        GOBIN=$bin GOFLAGS=-buildvcs=false nice -n 5 go install -trimpath -ldflags "$flags" "${program/ /@}"
        return
    fi
    export GOFLAGS="-mod=readonly -buildvcs=false"
    if [ "$name" = etcd ]; then
        cd "$KOLLECT_ENVTEST/etcd" && nice -n 5 go build -trimpath -ldflags "$flags" -o "$bin/$name" .
    else
        flags+=$(tools_stamp "$version")
        cd "$KOLLECT_ENVTEST" && nice -n 5 go build -trimpath -ldflags "$flags" -o "$bin/$name" "./$name"
    fi
}

# tools_build NAME: builds one Go program unless its version is cached. Concurrent callers wait for the first.
tools_build() {
    local name=$1 version path dir started scratch log
    version=$(tools_version "$name") || return 1
    [ -n "$version" ] || { tools_fail "hack/envtest names no version of $name"; return 1; }
    path=$(tools_path "$name")
    if [ -x "$path" ]; then
        tools_say "$name $version" cached
        return 0
    fi
    command -v go >/dev/null || { tools_fail "Go is needed to build $name $version: https://go.dev/doc/install"; return 1; }
    dir=$(dirname "$(dirname "$path")")
    mkdir -p "$(dirname "$dir")"
    (
        flock 9
        if [ -x "$path" ]; then
            tools_say "$name $version" "cached (built meanwhile)"
            exit 0
        fi
        tools_say "$name $version" "building"
        started=$SECONDS
        scratch=$dir.building
        log=$dir.log
        rm -rf "$scratch"
        mkdir -p "$scratch/bin"
        if ! (tools_compile "$name" "$version" "$scratch/bin") >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            tools_fail "go build of $name $version failed; the whole log is in $log"
            exit 1
        fi
        rm -rf "$dir" "$log"
        mv "$scratch" "$dir"
        tools_say "$name $version" "built in $((SECONDS - started)) s"
    ) 9>"$dir.lock"
}

# tools_there WHAT: a program, or a file that is none.
tools_there() { command -v "$1" >/dev/null || [ -e "$1" ]; }

# tools_package PACKAGE WHAT: a program or file of the distribution; installs its package when that needs no questions.
tools_package() {
    local package=$1 what=$2
    if tools_there "$what"; then
        tools_say "$package" "there ($(command -v "$what" || echo "$what"))"
        return 0
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        tools_fail "$what is missing: install the package $package"
        return 1
    fi
    mkdir -p "$KOLLECT_TOOLS_DIR/tools"
    (
        flock 9
        tools_there "$what" && exit 0
        tools_say "$package" "installing the package"
        started=$SECONDS
        log=$KOLLECT_TOOLS_DIR/tools/$package.log
        # The lab wants the programs alone: PostgreSQL's package would make a cluster, and openssh-server start a server.
        mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"; } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            tools_fail "apt-get install $package failed; the whole log is in $log"
            exit 1
        fi
        tools_say "$package" "installed in $((SECONDS - started)) s"
    ) 9>"$KOLLECT_TOOLS_DIR/tools/packages.lock"
}

# tools_kafka_pom: a project that depends on exactly the jars of the list.
tools_kafka_pom() {
    echo '<project><modelVersion>4.0.0</modelVersion><groupId>dev.kollect</groupId><artifactId>lab</artifactId>'
    echo '<version>0</version><packaging>pom</packaging><dependencies>'
    grep -v '^#' "$1" | awk -F '[ /]+' '{
        group = $2
        for (i = 3; i < NF - 2; i++) group = group "." $i
        print "<dependency><groupId>" group "</groupId><artifactId>" $(NF - 2) "</artifactId>"
        print "<version>" $(NF - 1) "</version><exclusions><exclusion>"
        print "<groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"
    }'
    echo '</dependencies></project>'
}

# tools_kafka: the jars of a Kafka broker and its tools, from where the settings of Maven say, each checked against its
# checksum.
tools_kafka() {
    local jars=$KOLLECT_ENVTEST/kafka.jars version dir started scratch log
    version=$(sed -n 's#.*/kafka_2.13-\(.*\)\.jar$#\1#p' "$jars")
    dir=$KOLLECT_TOOLS_DIR/tools/kafka-$version
    tools_package openjdk-17-jre-headless java || return 1
    if [ -d "$dir" ]; then
        tools_say "kafka $version" cached
        return 0
    fi
    tools_package maven mvn || return 1
    mkdir -p "$KOLLECT_TOOLS_DIR/tools"
    (
        flock 9
        [ ! -d "$dir" ] || exit 0
        tools_say "kafka $version" downloading
        started=$SECONDS
        scratch=$dir.building
        log=$dir.log
        rm -rf "$scratch"
        mkdir -p "$scratch/jars"
        tools_kafka_pom "$jars" >"$scratch/pom.xml"
        if ! (cd "$scratch" &&
            mvn --batch-mode --quiet "$KOLLECT_MAVEN_COPY" -DoutputDirectory="$scratch/jars" &&
            cd jars &&
            grep -v '^#' "$jars" | sed 's# [^ ]*/# #' | sha256sum --check --quiet --strict) >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            tools_fail "the download of kafka $version failed; the whole log is in $log"
            exit 1
        fi
        mv "$scratch/jars" "$dir"
        rm -rf "$scratch" "$log"
        tools_say "kafka $version" "downloaded in $((SECONDS - started)) s"
    ) 9>"$dir.lock"
}

# tools_python REQUIREMENTS PACKAGE DIRECTORY: a Python of our own with what a file of requirements names; its version is
# that of one of the packages.
tools_python() {
    local requirements=$KOLLECT_REPO/hack/lib/$1 package=$2 version dir log
    version=$(sed -n "s/^$package==//p" "$requirements")
    dir=$KOLLECT_TOOLS_DIR/tools/$3-$version
    # An environment cannot be moved into place, so a file in it says that it is whole.
    if [ -e "$dir/installed" ]; then
        tools_say "$package $version" cached
        return 0
    fi
    tools_package python3 python3 || return 1
    python3 -c 'import ensurepip' 2>/dev/null || tools_package python3-venv /usr/share/doc/python3-venv || return 1
    mkdir -p "$KOLLECT_TOOLS_DIR/tools"
    (
        flock 9
        [ ! -e "$dir/installed" ] || exit 0
        tools_say "$package $version" installing
        started=$SECONDS
        log=$dir.log
        rm -rf "$dir"
        if ! { python3 -m venv "$dir" &&
            "$dir/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" &&
            touch "$dir/installed"; } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -rf "$dir"
            tools_fail "pip install of $package $version failed; the whole log is in $log"
            exit 1
        fi
        rm -f "$log"
        tools_say "$package $version" "installed in $((SECONDS - started)) s"
    ) 9>"$dir.lock"
}

# tools_ensure [NAME…]: what the build needs and everything that the lab starts, or the named parts.
tools_ensure() {
    local name
    [ $# -gt 0 ] ||
        set -- libssl etcd kube-apiserver kube-controller-manager kubectl helm nats-server nats pprof postgres openssl git sshd \
            prometheus versitygw fake-gcs-server parquet kafka
    for name in "$@"; do
        case $name in
            # libssh2, which git2 brings, and librdkafka are linked with the OpenSSL of the system.
            libssl)
                tools_package pkg-config pkg-config || return 1
                tools_package libssl-dev /usr/include/openssl/ssl.h || return 1
                tools_package make make || return 1
                ;;
            postgres) tools_package postgresql-15 "$KOLLECT_POSTGRES_BIN/initdb" || return 1 ;;
            openssl) tools_package openssl openssl || return 1 ;;
            # Go builds this one of its own tools when it is asked for the first time.
            pprof) go tool -n pprof >/dev/null && tools_say pprof "there (go tool pprof)" || return 1 ;;
            git) tools_package git git || return 1 ;;
            # Named by its path, which the lab calls it by: /usr/sbin need not be searched.
            sshd) tools_package openssh-server /usr/sbin/sshd || return 1 ;;
            # Brings promtool as well.
            prometheus) tools_package prometheus prometheus || return 1 ;;
            kafka) tools_kafka || return 1 ;;
            # Plots alone need it, so it is not part of what a test brings up to date.
            python) tools_python requirements.txt matplotlib python || return 1 ;;
            # Reads Parquet back, and writes it for comparison.
            parquet) tools_python parquet.txt pyarrow python-parquet || return 1 ;;
            *) tools_build "$name" || return 1 ;;
        esac
    done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    tools_ensure "$@"
fi
