# Who brings stored keys under the Transit key: `session-executor keys wrap`. It can read every session key.
#
#   vault policy write session-executor-wrapper config/vault/wrapper.hcl
#
# Mount and prefix: see signer.hcl. Written by the bootstrap only with --transit-key. Hand it out for the moment in which it
# is needed; no running process needs it.

path "secret/data/session-keys/*" {
  capabilities = ["read", "update"]
}

# Plain versions are destroyed once the key is stored as ciphertext.
path "secret/destroy/session-keys/*" {
  capabilities = ["update"]
}
path "secret/metadata/session-keys/*" {
  capabilities = ["list", "read"]
}
path "secret/metadata/session-keys" {
  capabilities = ["list"]
}

# A ciphertext is decrypted and compared before anything plain is destroyed.
path "transit/encrypt/session-keys" {
  capabilities = ["update"]
}
path "transit/decrypt/session-keys" {
  capabilities = ["update"]
}
path "transit/rewrap/session-keys" {
  capabilities = ["update"]
}

# The keys of the seals: the change has a line in the audit trail, whose head is sealed.
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
