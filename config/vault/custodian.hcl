# Who ends keys: `session-executor keys destroy` and `keys rotate --finish`. Reads no key and makes none.
#
#   vault policy write session-executor-custodian config/vault/custodian.hcl
#
# Mount and prefix: see signer.hcl. Hand it out for the moment in which it is needed; no running process needs it.

path "secret/destroy/session-keys/*" {
  capabilities = ["update"]
}

# As for the operator: what is known of a key, and nothing that would lose one by itself.
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

# The keys of the seals on records: it reads sessions and stops them.
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
