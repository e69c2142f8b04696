# The operator: creates and lists session keys, and can neither read nor change one.
#
#   vault policy write session-executor-operator config/vault/operator.hcl
#
# Mount and prefix: see signer.hcl.

# create without update: a key that is there cannot be overwritten.
path "secret/data/session-keys/*" {
  capabilities = ["create"]
}

# Address, label and time of a key. They hold no secret.
path "secret/metadata/session-keys/*" {
  capabilities = ["list", "read", "create", "update"]
}
path "secret/metadata/session-keys" {
  capabilities = ["list"]
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
