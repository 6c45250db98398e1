#!/usr/bin/env bash
# Builds the programs of the lab once and caches them by version under $KOLLECT_TOOLS_DIR/tools.
# Sourced, it offers the functions; executed, it brings the named tools (default: all) up to date.
# The versions are those of hack/envtest/go.mod and hack/envtest/etcd/go.mod, and nowhere else;
# src/lab/tools.rs finds the programs by the same rule.

KOLLECT_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KOLLECT_TOOLS_DIR=${KOLLECT_TOOLS_DIR:-$HOME/.cache/kollect}
export KOLLECT_TOOLS_DIR

KOLLECT_ENVTEST=$KOLLECT_REPO/hack/envtest
KOLLECT_POSTGRES_BIN=/usr/lib/postgresql/15/bin

tools_say() { printf '%-24s %s\n' "$1" "$2"; }
tools_fail() { printf 'tools: %s\n' "$*" >&2; return 1; }

# tools_module_version GO_MOD MODULE: the version that a go.mod requires.
tools_module_version() {
    awk -v module="$2" '($1 == module) {print $2; exit} ($1 == "require" && $2 == module) {print $3; exit}' "$1"
}

# tools_version NAME
tools_version() {
    case $1 in
        etcd) tools_module_version "$KOLLECT_ENVTEST/etcd/go.mod" go.etcd.io/etcd/server/v3 ;;
        kube-apiserver | kube-controller-manager | kubectl)
            tools_module_version "$KOLLECT_ENVTEST/go.mod" k8s.io/kubernetes ;;
        *) tools_fail "no tool is called \"$1\"" ;;
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

# tools_build NAME: builds one Go program unless its version is cached. Concurrent callers wait for the first.
tools_build() {
    local name=$1 version path dir source package flags="-s -w" started scratch log
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
    if [ "$name" = etcd ]; then
        source=$KOLLECT_ENVTEST/etcd package=.
    else
        source=$KOLLECT_ENVTEST package=./$name
        flags+=$(tools_stamp "$version")
    fi
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
        if ! (cd "$source" && CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" nice -n 5 \
            go build -trimpath -ldflags "$flags" -o "$scratch/bin/$name" "$package") >"$log" 2>&1; then
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

# tools_ensure [NAME…]: what the build needs and everything that the lab starts, or the named parts.
tools_ensure() {
    local name
    [ $# -gt 0 ] || set -- libssl etcd kube-apiserver kube-controller-manager kubectl postgres openssl git sshd
    for name in "$@"; do
        case $name in
            # libssh2, which git2 brings, is linked with the OpenSSL of the system.
            libssl)
                tools_package pkg-config pkg-config || return 1
                tools_package libssl-dev /usr/include/openssl/ssl.h || return 1
                ;;
            postgres) tools_package postgresql-15 "$KOLLECT_POSTGRES_BIN/initdb" || return 1 ;;
            openssl) tools_package openssl openssl || return 1 ;;
            git) tools_package git git || return 1 ;;
            # Named by its path, which the lab calls it by: /usr/sbin need not be searched.
            sshd) tools_package openssh-server /usr/sbin/sshd || return 1 ;;
            *) tools_build "$name" || return 1 ;;
        esac
    done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    tools_ensure "$@"
fi
