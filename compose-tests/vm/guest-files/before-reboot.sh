# Starts containers of every restart policy, so that the machine can be reset under them.
. /payload/vm/lib.sh
use /data/lib
serve_images
mkdir -p /run/reboot
cat >/run/reboot/compose.yaml <<'END'
x-server: &server
  image: busybox
  command: [sh, -c, 'echo $$0 >/index.html; exec httpd -f -p 80 -h /', served]
services:
  always:
    <<: *server
    restart: always
    ports: ["127.0.0.1:8081:80"]
  always-stopped:
    <<: *server
    restart: always
  unless:
    <<: *server
    restart: unless-stopped
    depends_on: [always]
  unless-stopped:
    <<: *server
    restart: unless-stopped
  failing:
    <<: *server
    restart: on-failure
  no:
    <<: *server
END
cp /run/reboot/compose.yaml /data/
expect 'all start' rcompose -f /data/compose.yaml -p reboot up -d
expect 'some are stopped' rcompose -p reboot stop -t 0 always-stopped unless-stopped
sync
