#!/bin/sh
# Makes an authority and the certificates of this example in certs/, valid for a week.
set -eu
mkdir -p certs && cd certs
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
# shellcheck disable=SC2086 # $key is several words
openssl req -x509 $key -days 7 -subj /CN=example-ca -keyout ca.key -out ca.crt
issue() { # NAME COMMON-NAME SUBJECT-ALT-NAME
    # shellcheck disable=SC2086
    openssl req -x509 -CA ca.crt -CAkey ca.key $key -days 7 -subj "/CN=$2" \
        -addext "subjectAltName=$3" -addext "basicConstraints=critical,CA:FALSE" \
        -keyout "$1.key" -out "$1.crt"
}
issue shop    shop.example.com      DNS:shop.example.com
issue devices devices.example.com   "DNS:*.devices.example.com"
issue backend backend.internal      DNS:backend.internal
issue proxy   sluicegate            DNS:sluicegate
issue sensor  sensor-17             DNS:sensor-17
