# shellcheck shell=bash
# What the scripts share: progress, packages, the cache, what this host can do. Sourced, never run.
#
#   . "$(dirname "$(realpath "$0")")/lib.sh"
#
# Environment: TASKRUN_CACHE (where things made once are kept), TASKRUN_SKIP_PACKAGES=1 (install and check no package).

# shellcheck disable=SC2034  # used by the scripts that source this file
repo=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
PATH=$PATH:/usr/sbin:/sbin

# say TEXT...: progress, on stderr, so that stdout stays the script's answer.
say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# die TEXT...: a sentence on stderr, exit status 1.
die() {
  say "$@"
  exit 1
}

# usage: prints the header comment of the running script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# cache_dir NAME: the folder NAME in the cache, made when missing.
cache_dir() {
  local dir=${TASKRUN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/taskrun}/$1
  mkdir -p "$dir"
  printf '%s\n' "$dir"
}

# hash_of FILE...: one short hash over the contents of the files, in the order given. `-` is stdin.
hash_of() { cat -- "$@" | sha256sum | cut -c1-16; }

# as_root COMMAND...: runs it as root, through sudo where that is needed.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "This must run as root, and there is no sudo: $*"
  fi
}

# need_packages_for PURPOSE...: installs the Debian packages that are missing for building, for making the fixtures, for
# the lab or for the checks. One call with all purposes, so that who has to install them by hand is told all at once.
need_packages_for() {
  local purpose packages=()
  for purpose; do
    case $purpose in
      build)
        packages+=(gcc libc6-dev)
        mapfile -t -O ${#packages[@]} packages < <(sed 's/#.*//; /^ *$/d' "$repo/kernel/packages")
        ;;
      fixtures) packages+=(umoci skopeo mmdebstrap) ;;
      bench) packages+=(crun docker-registry qemu-system-x86 skopeo umoci util-linux-extra) ;;
      # virtiofsd is part of qemu-system-x86 here, and a package of its own from Debian 13 on.
      lab) packages+=(qemu-system-x86 busybox-static cpio e2fsprogs kmod lz4 util-linux) ;;
      checks) packages+=(apache2-utils docker-registry e2fsprogs erofs-utils openssl shellcheck skopeo) ;;
    esac
  done
  need_packages "${packages[@]}"
}

# need_packages PACKAGE...: installs the Debian packages that are missing.
need_packages() {
  [ -z "${TASKRUN_SKIP_PACKAGES:-}" ] || return 0
  # shellcheck disable=SC1091  # the system's own file
  if [ "$(. /etc/os-release 2>/dev/null && echo "${ID:-}")" != debian ]; then
    say "This isn't Debian, so install what these Debian packages hold, then set TASKRUN_SKIP_PACKAGES=1:"
    die "$*"
  fi
  local missing
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    die "As root, first run: apt-get install $missing"
  fi
  say "Installing $missing (usually under a minute)."
  # shellcheck disable=SC2086  # a list of words
  if ! install_packages $missing >/dev/null 2>&1; then
    # The lists are missing or old. A repository that fails doesn't matter as long as the packages are found.
    as_root apt-get update -qq >/dev/null 2>&1 || true
    # shellcheck disable=SC2086
    install_packages $missing >&2 || die "apt-get could not install $missing."
  fi
}

# missing_packages PACKAGE...: those that aren't installed, on one line.
missing_packages() {
  local package missing=()
  for package; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  printf '%s' "${missing[*]}"
}

install_packages() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# apt_lists: makes sure that apt knows packages to download.
apt_lists() {
  command -v apt-get >/dev/null || die "This takes packages from Debian's archive and needs apt-get."
  [ -n "$(apt-cache dumpavail 2>/dev/null | head -c 1)" ] || as_root apt-get update -qq >&2
}

# download_package PACKAGE...: the .deb files of the packages, into the current folder.
download_package() { apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$@" >&2; }

# need_rust: finds cargo and checks its version against the one Cargo.toml names.
need_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
  [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
  command -v cargo >/dev/null ||
    die "Rust $wanted or later is needed and Debian's own is older: install it with rustup (https://rustup.rs)."
  found=$(cd "$repo" && rustc --version | cut -d' ' -f2)
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
    die "Rust $wanted or later is needed, this is $found: run rustup update."
}

# target_dir: where cargo builds, as an absolute path.
target_dir() { realpath -m "${CARGO_TARGET_DIR:-$repo/target}"; }

# build_static PACKAGE...: release binaries without a dynamic linker, into static_dir. They run where there is nothing
# else: as PID 1 of a guest, or in an image made for a test. Naming --target keeps the flags from procedural macros.
static_target=x86_64-unknown-linux-gnu
static_dir() { printf '%s\n' "$(target_dir)/$static_target/release"; }
build_static() {
  local packages=() package
  for package; do packages+=(-p "$package"); done
  RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static -C strip=symbols" \
    cargo build --release --locked --target "$static_target" "${packages[@]}"
}

# has_kvm: /dev/kvm is there and may be opened.
has_kvm() { [ -c /dev/kvm ] && [ -r /dev/kvm ] && [ -w /dev/kvm ]; }

# has_hardware_kvm: KVM, and the processor has VMX or SVM.
has_hardware_kvm() { has_kvm && grep -qwE 'vmx|svm' /proc/cpuinfo; }
