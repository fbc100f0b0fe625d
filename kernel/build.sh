#!/usr/bin/env bash
# Builds the guest kernel and prints the path of its vmlinux on stdout; progress goes to stderr.
#
#   kernel/build.sh                # build, or find what an earlier run built from the same inputs
#   kernel/build.sh --print-path   # the path only; fails if that kernel hasn't been built
#   kernel/build.sh --force        # build again
#
# The result is kept in ${TASKRUN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/taskrun}/kernel/HASH/, where HASH covers the
# source tarball, the configuration, the patches, the compiler and this script: vmlinux, config, System.map, build.log.
# Installs nothing; `packages` names what it needs on Debian. TASKRUN_KERNEL_TARBALL=FILE gives the source elsewhere.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TASKRUN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/taskrun}/kernel
debian_tarball=/usr/src/linux-source-6.12.tar.xz
patches=("$here"/patches/*.patch)

say() { echo "kernel: $*" >&2; }
die() { say "$*"; exit 1; }

# The source tarball: a Debian package's file is verified by the package manager, any other by its line in `source`.
find_tarball() {
    local tarball=${TASKRUN_KERNEL_TARBALL:-} sum
    if [ -z "$tarball" ]; then
        [ -e "$debian_tarball" ] || die "no kernel source: install the package linux-source-6.12 (Debian), or set" \
            "TASKRUN_KERNEL_TARBALL to one of the tarballs named in $here/source"
        echo "$debian_tarball"
        return
    fi
    [ -r "$tarball" ] || die "cannot read $tarball (TASKRUN_KERNEL_TARBALL)"
    sum=$(sha256sum <"$tarball" | cut -d' ' -f1)
    grep -q "^$sum  " "$here/source" ||
        die "the sha256 of $tarball is $sum, which $here/source doesn't name"
    realpath "$tarball"
}

# The tarball's own checksum is slow to take (150 MB), so size and modification time stand in for it once it is known.
tarball_hash() {
    local tarball=$1 stamp file
    stamp=$(stat -Lc '%n %s %Y' "$tarball" | sha256sum | cut -c1-32)
    file=$cache/tarballs/$stamp
    if [ ! -s "$file" ]; then
        mkdir -p "$cache/tarballs"
        sha256sum <"$tarball" | cut -d' ' -f1 >"$file.$$"
        mv "$file.$$" "$file"
    fi
    cat "$file"
}

inputs_hash() {
    local file
    {
        echo "tarball $(tarball_hash "$1")"
        "${CC:-gcc}" --version | head -n 1
        ld --version | head -n 1
        for file in "$here/build.sh" "$here/check-config" "$here/required.list" "$here/config" "${patches[@]}"; do
            echo "${file#"$here/"} $(sha256sum <"$file")"
        done
    } | sha256sum | cut -c1-32
}

check_tools() {
    local tool missing=()
    for tool in "${CC:-gcc}" ld make flex bison bc xz patch; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ -e /usr/include/gelf.h ] || missing+=(libelf)
    [ ${#missing[@]} -eq 0 ] || die "needs ${missing[*]}; Debian's packages are named in $here/packages"
}

# Every line of the fragment must have been taken as it stands: Kconfig drops silently what a dependency forbids.
check_fragment() {
    local config=$1 line name wrong=0
    while read -r line; do
        case $line in
        CONFIG_*) grep -qxF -- "$line" "$config" || { say "not taken: $line"; wrong=1; } ;;
        "# CONFIG_"*" is not set")
            name=${line#\# } name=${name%% *}
            ! grep -q "^$name=" "$config" || { say "not taken: $line"; wrong=1; }
            ;;
        esac
    done <"$here/config"
    [ $wrong = 0 ] || die "the kernel's Kconfig disagrees with $here/config"
}

compile() {
    local tarball=$1 work=$2 out=$3 src patch make
    src=$work/src
    mkdir -p "$src" "$work/obj"
    say "unpacking $tarball"
    tar -xf "$tarball" -C "$src" --strip-components=1
    for patch in "${patches[@]}"; do
        say "applying ${patch##*/}"
        patch -d "$src" -p1 --batch --forward --no-backup-if-mismatch <"$patch" >>"$out/build.log" ||
            die "${patch##*/} does not apply"
    done
    make=(make -C "$src" "O=$work/obj" "-j$(nproc)"
        KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=taskrun KBUILD_BUILD_HOST=taskrun KBUILD_BUILD_VERSION=1 ARCH=x86_64)
    "${make[@]}" -s allnoconfig "KCONFIG_ALLCONFIG=$here/config" >>"$out/build.log" 2>&1
    check_fragment "$work/obj/.config"
    "${make[@]}" vmlinux >>"$out/build.log" 2>&1 || { tail -n 20 "$out/build.log" >&2; die "the build failed"; }
    strip --strip-all -o "$out/vmlinux" "$work/obj/vmlinux"
    cp "$work/obj/.config" "$out/config"
    cp "$work/obj/System.map" "$out/System.map"
    "$here/check-config" "$out/config"
}

clean_up() {
    if [ -e "$1/out/build.log" ]; then
        mv "$1/out/build.log" "$cache/failed.log"
        say "the build did not finish; its log is $cache/failed.log"
    fi
    rm -rf "$1"
}

build() {
    local tarball=$1 target=$2 work
    check_tools
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    if [ -e "$target/vmlinux" ] && [ -z "$force" ]; then # built while this run waited for the lock
        return
    fi
    rm -rf "$cache"/build.?????? # what a killed run has left; the lock says that none is running
    work=$(mktemp -d "$cache/build.XXXXXX")
    # shellcheck disable=SC2064 # the directory's name is meant now
    trap "clean_up '$work'" EXIT
    mkdir "$work/out"
    say "building the guest kernel, usually 6 minutes on 2 cores (log: $work/out/build.log)"
    compile "$tarball" "$work" "$work/out"
    rm -rf "$target"
    mv "$work/out" "$target"
    say "built in $((SECONDS / 60)) min $((SECONDS % 60)) s"
}

force='' print_path=''
for arg in "$@"; do
    case $arg in
    --force) force=1 ;;
    --print-path) print_path=1 ;;
    *) die "unknown argument $arg" ;;
    esac
done

tarball=$(find_tarball)
target=$cache/$(inputs_hash "$tarball")
if [ -n "$print_path" ]; then
    [ -e "$target/vmlinux" ] || die "not built yet: run $here/build.sh"
elif [ -n "$force" ] || [ ! -e "$target/vmlinux" ]; then
    build "$tarball" "$target"
fi
echo "$target/vmlinux"
