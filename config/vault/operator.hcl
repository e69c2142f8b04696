# The operator: creates and lists session keys, and can neither read nor change one.
#
#   vault policy write session-executor-operator config/vault/operator.hcl
#
# Mount and prefix: see signer.hcl.

# create without update: a key that is there cannot be overwritten.
path "secret/data/session-keys/*" {
  capabilities = ["create"]
}

# Address, label and time of a key. They hold no secret. Nothing else of the metadata may be set: a short
# delete_version_after or max_versions would lose keys later on.
path "secret/metadata/session-keys/*" {
  capabilities = ["list", "read", "create", "update"]
  allowed_parameters = {
    "custom_metadata"      = []
    "delete_version_after" = ["0s"]
  }
}
path "secret/metadata/session-keys" {
  capabilities = ["list"]
}

# With a Transit key, keys are encrypted before they are stored; what is stored cannot be decrypted.
path "transit/encrypt/session-keys" {
  capabilities = ["update"]
}

# The keys of the seals on records: who enqueues or imports seals what is written.
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
