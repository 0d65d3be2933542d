#!/bin/sh
# What the tests need besides Python: a broker, a database, a proxy, a browser. From Debian's packages when this runs
# as root (or sudo needs no password); otherwise says what is missing and the tests that need it report "not run".
set -u
missing=""
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing="$missing mosquitto"
command -v influxd >/dev/null || [ -x /usr/bin/influxd ] || missing="$missing influxdb"
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
command -v chromium >/dev/null || missing="$missing chromium"
[ -d /usr/share/fonts/opentype/inter ] || [ -d /usr/share/fonts/truetype/inter ] || missing="$missing fonts-inter"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then as=""; elif sudo -n true 2>/dev/null; then as="sudo"; else as="no"; fi
if [ "$as" = no ] || ! command -v apt-get >/dev/null; then
  echo "NOT INSTALLED:$missing. The tests that need them will be reported as not run."
  exit 0
fi
# Debian starts a service as soon as it is installed; the tests start their own, on their own ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | $as tee $policy >/dev/null && $as chmod 755 $policy
  trap '$as rm -f $policy' EXIT
fi
$as apt-get update -qq
# shellcheck disable=SC2086  the list is meant to be split
DEBIAN_FRONTEND=noninteractive $as apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
  echo "Installing$missing failed; the tests that need them will be reported as not run."
}
exit 0
