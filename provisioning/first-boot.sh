#!/bin/sh
# Makes a device out of a fresh system, without a network: Leukoscope from a folder of wheels,
# its user, its folders, its units, the first keys and the first bundle. Then asks the doctor.
# For research use only. Not for use in diagnostic procedures.
#
# usage: first-boot.sh --payload FOLDER [--profile NAME] [--python PYTHON] [--root FOLDER]
#
#   payload/wheels/       wheels and SHA256SUMS, as collect_wheels.py makes them
#   payload/keys/         public keys; the first is trusted as it comes, further ones must be
#                         signed by it
#   payload/bundles/      signed bundles, installed in the order of their names; may be absent
#   payload/settings.toml takes the place of a profile; may be absent
#
#   --profile   a file of profiles/ [default: by the board's own name]
#   --python    [default: python3]
#   --root      write under this folder instead of /, to look at what it does
#
# It may be run again: what is there is kept, wheels that changed are installed beside the old
# ones and take their place in one step. Exit code 0 when a film can run, 1 when the doctor
# says that none can, 2 when something is wrong with what was given.
set -eu

say() { printf 'first-boot: %s\n' "$*"; }
fail() {
    printf 'first-boot: %s\n' "$*" >&2
    exit 2
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
payload='' profile='' python=python3 root=''
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1: unknown, or lacks its value; see the head of this file"
    case $1 in
        --payload) payload=$2 ;;
        --profile) profile=$2 ;;
        --python) python=$2 ;;
        --root) root=${2%/} ;;
        *) fail "$1: unknown; see the head of this file" ;;
    esac
    shift 2
done

[ "$(id -u)" -eq 0 ] || fail "needs root: it makes a user and installs units"
[ -n "$payload" ] || fail "--payload FOLDER is missing"
[ -d "$payload/wheels" ] || fail "$payload/wheels is no folder; make it with collect_wheels.py"
for tool in systemd-sysusers systemd-tmpfiles systemctl setpriv sha256sum "$python"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed here"
done
payload=$(CDPATH='' cd -- "$payload" && pwd)
wheels=$payload/wheels

# --- what is to be installed -------------------------------------------------------------

[ -f "$wheels/SHA256SUMS" ] || fail "$wheels/SHA256SUMS is missing; make it with collect_wheels.py"
(cd "$wheels" && sha256sum --check --strict --quiet SHA256SUMS >&2) ||
    fail "$wheels: a wheel is damaged or missing; copy the folder again"
own='' pip=''
for wheel in "$wheels"/*.whl; do
    name=$(basename "$wheel")
    grep -q " [ *]$name\$" "$wheels/SHA256SUMS" || fail "$wheel is not in SHA256SUMS; remove it"
    case $name in
        leukoscope-*) own=$name ;;
        pip-*) pip=$wheel ;;
    esac
done
[ -n "$own" ] || fail "$wheels holds no leukoscope wheel; make it with collect_wheels.py"
[ -n "$pip" ] || fail "$wheels holds no pip wheel; make it with collect_wheels.py"

guess_profile() {
    board=$(tr -d '\000' 2>/dev/null <"$root/proc/device-tree/model") || board=''
    case $board in
        *Orin*Nano*) echo orin-nano ;;
        *Orin*NX*) echo orin-nx ;;
        *AGX*Orin*) echo agx-orin ;;
        *Raspberry*Pi*5*) echo raspberry-pi-5 ;;
    esac
}
[ -n "$profile" ] || profile=$(guess_profile)
settings=$payload/settings.toml
if [ ! -f "$settings" ]; then
    [ -n "$profile" ] || fail "this board is not known; name a --profile of $here/profiles"
    settings=$here/profiles/$profile.toml
    [ -f "$settings" ] || fail "profile $profile: no such file in $here/profiles"
fi
say "settings: $settings"

# --- user and folders --------------------------------------------------------------------

mkdir -p "$root/etc/sysusers.d" "$root/etc/tmpfiles.d" "$root/etc/systemd/system" \
    "$root/etc/leukoscope" "$root/opt/leukoscope/versions" "$root/opt/leukoscope/libexec" \
    "$root/usr/local/bin" "$root/var/lib"
install -m 644 "$here/sysusers.d/leukoscope.conf" "$root/etc/sysusers.d/leukoscope.conf"
install -m 644 "$here/tmpfiles.d/leukoscope.conf" "$root/etc/tmpfiles.d/leukoscope.conf"
systemd-sysusers ${root:+"--root=$root"} leukoscope.conf
systemd-tmpfiles --create ${root:+"--root=$root"} leukoscope.conf
user=$(awk -F: '$1 == "leukoscope" { print $3 }' "$root/etc/passwd")
group=$(awk -F: '$1 == "leukoscope" { print $4 }' "$root/etc/passwd")
[ -n "$user" ] || fail "systemd-sysusers made no user leukoscope"
say "user leukoscope ($user)"

[ -f "$root/etc/leukoscope/settings.toml" ] ||
    install -m 644 "$settings" "$root/etc/leukoscope/settings.toml"
device_root=$(sed -n 's/^device_root *= *"\(.*\)".*/\1/p' "$root/etc/leukoscope/settings.toml")
[ -n "$device_root" ] || fail "$root/etc/leukoscope/settings.toml names no device_root"

# --- the program -------------------------------------------------------------------------

version=$(echo "$own" | cut -d- -f2)-$(sha256sum "$wheels/SHA256SUMS" | cut -c1-8)
place=$root/opt/leukoscope/versions/$version
if [ ! -f "$place/complete" ]; then
    rm -rf "$place"
    set --
    # JetPack's TensorRT and a Raspberry Pi's picamera2 are system packages.
    case $profile in
        orin-* | agx-orin | raspberry-pi-5) set -- --system-site-packages ;;
    esac
    "$python" -m venv --without-pip "$@" "$place"
    set --
    for wheel in "$wheels"/*.whl; do
        [ "$wheel" = "$pip" ] || set -- "$@" "$wheel"
    done
    say "installing $# wheels into $place"
    # A wheel of pip can be run as it is, so that no system package of it is needed.
    env -u PYTHONPATH PIP_CONFIG_FILE=/dev/null PYTHONNOUSERSITE=1 \
        "$place/bin/python" "$pip/pip" install --quiet --no-index --no-cache-dir \
        --disable-pip-version-check --root-user-action=ignore --ignore-installed "$@" ||
        fail "the wheels do not install here; collect them for this Python and processor"
    # After a power cut there is no mark, or everything that it vouches for.
    sync
    touch "$place/complete"
fi
ln -sfn "versions/$version" "$root/opt/leukoscope/current.new"
mv -T "$root/opt/leukoscope/current.new" "$root/opt/leukoscope/current"
ln -sfn /opt/leukoscope/current/bin/leukoscope "$root/usr/local/bin/leukoscope"
install -m 755 "$here/libexec/leukoscope-inbox" "$root/opt/leukoscope/libexec/leukoscope-inbox"
say "Leukoscope $version"

# --- units -------------------------------------------------------------------------------

for unit in leukoscope-doctor.service leukoscope-film@.service leukoscope-inbox.service \
    leukoscope-inbox.path leukoscope-serve.service; do
    install -m 644 "$here/systemd/$unit" "$root/etc/systemd/system/$unit"
    case $profile:$unit in
        orin-*:*.service | agx-orin:*.service)
            mkdir -p "$root/etc/systemd/system/$unit.d"
            install -m 644 "$here/systemd/jetson-gpu.conf" \
                "$root/etc/systemd/system/$unit.d/jetson-gpu.conf"
            ;;
    esac
done
running=''
[ -n "$root" ] || [ ! -d /run/systemd/system ] || running=yes
[ -z "$running" ] || systemctl daemon-reload
systemctl ${root:+"--root=$root"} --quiet enable leukoscope-doctor.service leukoscope-inbox.path

# --- keys and bundles, as the user that will run them --------------------------------------

leukoscope() {
    if [ -n "$root" ]; then
        set -- --clear-groups "$root/opt/leukoscope/current/bin/leukoscope" "$@"
    else
        set -- --init-groups /opt/leukoscope/current/bin/leukoscope "$@"
    fi
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME="$root/var/lib/leukoscope" \
        setpriv --reuid="$user" --regid="$group" "$@" \
        --settings "$root/etc/leukoscope/settings.toml" --root "$root$device_root"
}

# The payload may lie where only root can read.
passage=$(mktemp -d "$root/var/lib/leukoscope/first-boot.XXXXXX")
trap 'rm -rf "$passage"' EXIT
chown "$user:$group" "$passage"
handed() {
    install -m 400 -o "$user" -g "$group" "$1" "$passage/$(basename "$1")"
    echo "$passage/$(basename "$1")"
}

if [ -n "$(find "$root$device_root/keys" -name '*.json' 2>/dev/null | head -n 1)" ]; then
    say "keys are trusted here already; those of the payload are left alone"
else
    for key in "$payload"/keys/*.json; do
        [ -f "$key" ] || fail "$payload/keys holds no public key; no bundle could be installed"
        leukoscope device trust "$(handed "$key")" || fail "$key: not taken"
    done
fi
for bundle in "$payload"/bundles/*.zip; do
    [ -f "$bundle" ] || continue
    leukoscope device install "$(handed "$bundle")" ||
        say "$bundle: not installed; see above, mend it and drop it into the inbox"
done

sync
touch "$root/var/lib/leukoscope/first-boot.done"
[ -z "$running" ] || systemctl start --no-block leukoscope-inbox.path
if leukoscope doctor; then
    say "done"
else
    say "done; see above for what keeps a film from running"
    exit 1
fi
