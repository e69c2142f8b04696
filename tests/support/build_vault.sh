#!/usr/bin/env bash
# Build Vault from its Go module, once, into the cache folder: about 6 to 15 minutes cold on two cores, mostly
# downloads; nothing to do when the binary is there. Safe to start early, in the background and more than once:
# a lock lets one build go on and the others wait for it.
#
#   tests/support/build_vault.sh          prints the path of the binary on standard output, progress on standard error
set -euo pipefail

version=1.21.0
cache="${XDG_CACHE_HOME:-$HOME/.cache}/session-executor/bin"
binary="$cache/vault-$version"

say() { printf 'build_vault: %s\n' "$*" >&2; }

if [ -x "$binary" ]; then
  say "vault $version is built"
  echo "$binary"
  exit 0
fi
command -v go >/dev/null || { say "go is missing: install it, or put vault $version on PATH"; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/vault-$version.lock"
if ! flock --nonblock 9; then
  say "another build is running; waiting for it"
  flock 9
fi
if [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi

work="$(mktemp -d)"
beat=""
cleanup() {
  [ -z "$beat" ] || kill "$beat" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Vault is a command and not a library: its own replace lines do not reach us, so the two that matter are repeated.
# sdk v0.20.0 is the one that was released with 1.21.0; 99designs/keyring needs the fork that Vault's go.mod names.
cat >"$work/go.mod" <<MOD
module session-executor/vaultbuild

go 1.25.0

tool github.com/hashicorp/vault

require github.com/hashicorp/vault v$version

replace github.com/hashicorp/vault/sdk => github.com/hashicorp/vault/sdk v0.20.0

replace github.com/99designs/keyring => github.com/Jeffail/keyring v1.2.3
MOD

cd "$work"
export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false"
started=$SECONDS
# a line a minute, so that nobody takes the silent compiler for a hanging one
(while sleep 60; do say "still at it after $((SECONDS - started)) s"; done) 9>&- &
beat=$!
say "resolving and downloading modules"
go mod download github.com/hashicorp/vault 9>&-
say "compiling vault $version (the first time takes minutes)"
go build -trimpath -ldflags '-s -w' -o "$work/vault" github.com/hashicorp/vault 9>&-
"$work/vault" version >&2
# a rename within one folder: nobody ever sees half a binary
cp "$work/vault" "$cache/.vault-$version.$$"
chmod 755 "$cache/.vault-$version.$$"
mv "$cache/.vault-$version.$$" "$binary"
say "done after $((SECONDS - started)) s"
echo "$binary"
