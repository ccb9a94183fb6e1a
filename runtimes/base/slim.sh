#!/bin/sh
# What a sandbox never needs leaves the base image; what it needs ready-made is made here.
# mmdebstrap runs this outside, as root, with the new root directory as its argument.
set -eu
root="$1"

# Documents, translations, and the package manager: the root is read-only when functions run.
# The package database stays, so that scanners can tell what is installed.
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* \
    "$root"/usr/share/locale/* "$root"/usr/share/lintian "$root"/usr/share/doc-base \
    "$root"/usr/share/bash-completion "$root"/usr/share/perl5 "$root"/usr/share/debconf \
    "$root"/usr/lib/*/perl-base "$root"/usr/bin/perl* "$root"/usr/bin/dpkg* \
    "$root"/usr/sbin/dpkg* "$root"/usr/bin/update-alternatives "$root"/var/cache/debconf/* \
    "$root"/var/lib/dpkg/*-old "$root"/var/lib/dpkg/info/*.md5sums "$root"/var/log/* \
    "$root"/etc/apt "$root"/var/lib/apt "$root"/var/cache/apt "$root"/var/cache/ldconfig \
    "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

# No program may gain rights by being run.
find "$root" -xdev -type f -perm /6000 -exec chmod ug-s {} +

# Byte code that is trusted without looking at its source: the same bytes in every build (no
# times in it), and no module is compiled again because its source's time was clamped. -B, or
# compileall would leave byte code with times for the modules it imports itself.
find "$root/usr/lib" -name __pycache__ -type d -prune -exec rm -rf {} +
chroot "$root" python3 -I -B -m compileall -q -f --invalidation-mode unchecked-hash \
    /usr/lib/python3 /usr/lib/python3.13
test -f "$root"/usr/lib/python3.13/json/__pycache__/__init__.cpython-313.pyc

rm -rf "$root"/tmp/* "$root"/run/* "$root"/etc/machine-id "$root"/etc/hostname \
    "$root"/etc/resolv.conf "$root"/usr/share/zoneinfo/right
