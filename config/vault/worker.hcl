# A worker that prepares, submits and watches: it can read no session key, whatever else its token may do.
#
#   vault policy write session-executor-worker config/vault/worker.hcl
#
# Mount and prefix: see signer.hcl.

# Said, not only left out: a deny wins over any other policy that somebody adds to the role.
path "secret/data/session-keys/*" {
  capabilities = ["deny"]
}
path "secret/metadata/session-keys/*" {
  capabilities = ["deny"]
}

path "transit/decrypt/session-keys" {
  capabilities = ["deny"]
}

# The keys of the seals on records: what is written is sealed, and what has no seal is not worked on.
path "secret/data/session-executor/records" {
  capabilities = ["read"]
}

# Its own token: see signer.hcl.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
