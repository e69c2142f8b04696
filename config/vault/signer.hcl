# The worker that signs (queues sign and urgent-sign): reads session keys and nothing else.
#
#   vault policy write session-executor-signer config/vault/signer.hcl
#
# Mount and prefix are the defaults of SESSION_EXECUTOR_VAULT_MOUNT and SESSION_EXECUTOR_VAULT_PREFIX;
# `python -m config.vault.bootstrap` puts other ones in their place.

path "secret/data/session-keys/*" {
  capabilities = ["read"]
}

# With a Transit key (SESSION_EXECUTOR_VAULT_TRANSIT_KEY) keys are stored as its ciphertext, and decrypted for each use.
path "transit/decrypt/session-keys" {
  capabilities = ["update"]
}

# The keys of the seals on records: what is not sealed is not signed.
path "secret/data/session-executor/records" {
  capabilities = ["read"]
}

# Its own token: how long it lives, to renew it, and what it may do (doctor).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
