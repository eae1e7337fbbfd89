# shellcheck shell=sh
# For login shells in the container, such as those of ssh: /etc/profile overwrites the image's PATH.
export VIRTUAL_ENV=/opt/yolo-lightning
export PATH="$VIRTUAL_ENV/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:$PATH"
case $- in
*i*) entrypoint.sh greeting ;;
esac
