#!/bin/sh
# Boots one machine of a laboratory, in three steps of one process tree:
#   build   in its new mount and UTS namespace: lays out the file system, then becomes
#   launch  which starts the first process of a new PID namespace, prints its pid as seen outside, and ends;
#   run     is that process: it is the machine's init. SIGKILL to it is a crash of the whole machine.
# build's standard input is the laboratory's lock: it is held by everything up to launch, but not by run.
set -eu

build() {
    full_name=$1 kind=$2 folder=$3 data=$4 images=$5 tree=$6
    exec 3>>"$folder/log"
    hostname "${full_name##*/}"

    # Copies of these mounts would keep the other machines' namespaces alive after their removal.
    if mountpoint -q /run/netns; then umount --recursive --lazy /run/netns; fi

    # Gathered here first, since the folders may lie below what is mounted over further down.
    stage=$folder/stage
    mkdir -p "$stage"
    mount -t tmpfs -o mode=755 tmpfs "$stage"
    mkdir "$stage/varlib" "$stage/images" "$stage/upper" "$stage/work"
    mount --bind "$data" "$stage/varlib"
    mount --bind "$images" "$stage/images"
    if [ -n "$tree" ]; then mount -t overlay overlay -o "lowerdir=$tree/usr:/usr" /usr; fi
    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$stage/upper,workdir=$stage/work" /etc
    cp -a "$folder/etc/." /etc/

    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount -t sysfs sysfs /sys
    # The client keeps the caller's /tmp, /root and /mnt: the probes that run there may be installed below them.
    if [ "$kind" = host ]; then
        mount --move "$stage/varlib" /var/lib
        mount -t tmpfs -o mode=755 tmpfs /mnt
        mkdir /mnt/images
        mount --move "$stage/images" /mnt/images
        mount -t tmpfs -o mode=1777 tmpfs /tmp
        mount -t tmpfs -o mode=1777 tmpfs /var/tmp
        mount -t tmpfs -o mode=700 tmpfs /root
    else
        # What the caller's shell does at its start would be done for each command that the client is given.
        for file in .bashrc .bash_profile .bash_login .profile .zshenv .zshrc; do
            if [ -f "/root/$file" ]; then mount --bind /dev/null "/root/$file"; fi
        done
    fi
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -m 755 /run/sshd
    mkdir -m 1777 /run/lock

    set_knob net/ipv4/ip_forward 0
    for family in ip ip6 arp; do set_knob "net/bridge/bridge-nf-call-${family}tables" 0; done

    write_sshd_options
    cd /
    exec unshare --pid sh /etc/godwit-lab/hostinit.sh launch "$full_name"
}

set_knob() {
    if [ -e "/proc/sys/$1" ]; then echo "$2" >"/proc/sys/$1"; fi
}

# OpenSSH 9.8 and later slows down addresses that failed to log in, which tests do on purpose; earlier ones
# do not know the option.
write_sshd_options() {
    sshd=$(command -v /usr/sbin/sshd)
    config=/etc/godwit-lab/sshd_config
    if "$sshd" -t -f "$config" -o PerSourcePenalties=no 2>/dev/null; then
        echo "PerSourcePenalties no" >>"$config"
    else
        "$sshd" -t -f "$config"
    fi
}

launch() {
    setsid sh /etc/godwit-lab/hostinit.sh run "$1" </dev/null >&3 2>&3 3>&- &
    echo "$!"
}

# The argument only tells ps, outside, whose init this is.
run() {
    trap 'exit 0' TERM
    mount -t proc proc /proc
    /usr/sbin/sshd -D -e -f /etc/godwit-lab/sshd_config &
    # Waiting for one child also reaps every orphan that ends meanwhile.
    while :; do
        sleep infinity &
        wait "$!" || :
    done
}

step=$1
shift
"$step" "$@"
