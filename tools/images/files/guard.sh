#!/bin/busybox sh
# Usage: guard.sh MOUNT_POINT
# First container of a pod, so the last one to end. When the pod ends it takes away what a sidecar left that
# was killed and not started again: a dead mount would keep the kubelet from removing the volume, for ever.
point=$1

leave() {
    while umount -l "$point" 2>/dev/null; do echo "unmounted $point"; done
    exit 0
}

trap leave TERM INT
while :; do
    sleep 86400 &
    wait $!
done
