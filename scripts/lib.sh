# shellcheck shell=bash
# What the scripts share. Sourced, never run; the caller has set -euo pipefail.

say() { printf '%s\n' "$*"; }
heading() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    [ $# -lt 2 ] || printf '  to do: %s\n' "$2" >&2
    exit 1
}
need_root() { [ "$(id -u)" = 0 ] || die "must run as root" "sudo $0"; }
need_systemd() { [ -d /run/systemd/system ] || die "systemd is not running here" "scripts/run works without it"; }

# Install the distribution's packages that are missing: each argument is COMMAND-OR-FILE:PACKAGE.
need_packages() {
    local pair what missing=()
    for pair in "$@"; do
        what=${pair%%:*}
        case $what in
            /*) [ -e "$what" ] || missing+=("${pair#*:}") ;;
            *) command -v "$what" >/dev/null || missing+=("${pair#*:}") ;;
        esac
    done
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

apt_install() {
    command -v apt-get >/dev/null || die "needs the packages: $*" "install them; this script knows only apt-get"
    say "installing packages: $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return
    apt-get update -qq </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null ||
        die "apt-get cannot install: $*" "run: apt-get install $*"
}

# The first system Python of 3.11 or later that can make virtual environments. Never one of a user's home: the
# service's own users must be able to run it.
find_python() {
    local python
    for python in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11; do
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            say "$python"
            return 0
        fi
    done
    return 1
}

need_python() {
    PYTHON=$(find_python) && return
    if [ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info >= (3, 11))'; then
        apt_install python3.11 python3.11-venv # Ubuntu 22.04, whose python3 is 3.10
    else
        apt_install python3 python3-venv
    fi
    PYTHON=$(find_python) || die "no Python 3.11 or later with venv in /usr/bin" "apt-get install python3 python3-venv"
}

need_libseccomp() { # pyseccomp loads it by its soname
    [ -n "$(find /lib /usr/lib -name 'libseccomp.so.2' -print -quit 2>/dev/null)" ] || apt_install libseccomp2
}

# pip without questions. With WHEELHOUSE set nothing is fetched; without it pip's own configuration says from where.
pip_install() { # VENV ARGUMENT...
    local venv=$1 source=()
    shift
    [ -z "${WHEELHOUSE:-}" ] || source=(--no-index --find-links "$WHEELHOUSE")
    "$venv/bin/python" -m pip --quiet --quiet --disable-pip-version-check --no-input install "${source[@]}" "$@" </dev/null
}

# A new virtual environment DIR with what the lock file LOCK says, by hash, wheels only.
make_venv() { # DIR LOCK
    "$PYTHON" -m venv "$1"
    pip_install "$1" --require-hashes --only-binary :all: -r "$2"
}

# DIR, below the checkout, with LOCK's packages and the checkout itself; made again only when lock, Python or place change.
cached_venv() { # DIR LOCK
    local key
    key="$("$PYTHON" -V) $(sha256sum <"$2") $PWD"
    [ "$(cat "$1/.key" 2>/dev/null)" != "$key" ] || return 0
    rm -rf "$1"
    mkdir -p "$(dirname "$1")"
    make_venv "$1" "$2"
    printf '%s\n' "$PWD" >"$(echo "$1"/lib/python3*/site-packages)/checkout.pth"
    printf '#!%s\nimport sys\nfrom supervisor.cli.main import main\nsys.exit(main())\n' "$PWD/$1/bin/python" >"$1/bin/stockade"
    chmod 755 "$1/bin/stockade"
    printf '%s' "$key" >"$1/.key"
}

# The service's users and group where systemd-sysusers has not made them; remove_made_users takes back only these.
MADE_USERS=() MADE_GROUPS=()
make_users() { # ONE-MORE
    local user
    if ! getent group stockade-clients >/dev/null; then
        groupadd --system stockade-clients
        MADE_GROUPS+=(stockade-clients)
    fi
    for user in stockade stockade-audit "$1"; do
        if ! getent passwd "$user" >/dev/null; then
            useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
            MADE_USERS+=("$user")
        fi
    done
}
remove_made_users() {
    local name
    for name in "${MADE_USERS[@]}"; do userdel "$name" || true; done
    for name in "${MADE_GROUPS[@]}"; do groupdel "$name" || true; done
}

# The users of the service must be able to read its code. A checkout that they cannot reach (in /root, say) is copied
# to where they can, and the work goes on there. In /var/cache only root can have put something of that name before.
go_to_reachable_checkout() {
    setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$PWD/supervisor" -a -x "$PWD/supervisor" 2>/dev/null && return
    local copy
    copy=/var/cache/stockade-checkout-$(printf '%s' "$PWD" | cksum | cut -d' ' -f1)
    install -d -m 755 -o root -g root "$copy"
    find "$copy" -mindepth 1 -maxdepth 1 ! -name .cache -exec rm -rf {} +
    tar --exclude=./.cache -cf - . | tar -C "$copy" -xf -
    chmod -R go+rX "$copy"
    say "the service's users cannot reach $PWD; working in a copy: $copy"
    cd "$copy" || exit 1
}
