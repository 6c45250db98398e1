# Ends the recorded process groups and removes the files of a lab once standard input is closed, which the kernel does for
# a starter that dies in any way. Lines: "<signal> <group>", "forget <group>", "unmount <path>", "remove <path>", and
# "group <path>" for a control group.
trap '' HUP INT TERM
parts=
mounts=
groups=
while read -r word value; do
    case $word in
        remove) set -- "$@" "$value" ;;
        unmount) mounts="$mounts $value" ;;
        group) groups="$groups $value" ;;
        forget)
            rest=
            for part in $parts; do
                [ "${part#*:}" = "$value" ] || rest="$rest $part"
            done
            parts=$rest
            ;;
        *) parts="$parts $word:$value" ;;
    esac
done
for part in $parts; do
    kill -s "${part%%:*}" -- "-${part#*:}" 2>/dev/null
done
tries=0
while [ "$tries" -lt 50 ]; do
    alive=
    for part in $parts; do
        kill -s 0 -- "-${part#*:}" 2>/dev/null && alive=yes
    done
    [ -n "$alive" ] || break
    tries=$((tries + 1))
    sleep 0.1
done
for part in $parts; do
    kill -s KILL -- "-${part#*:}" 2>/dev/null
done
for mount in $mounts; do
    umount -l "$mount" 2>/dev/null
done
for group in $groups; do
    rmdir "$group" 2>/dev/null
done
rm -rf -- "$@"
