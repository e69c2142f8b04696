# Vault of docker-compose.yml: one node with its data in a volume. It starts sealed; the service
# vault-bootstrap initialises it the first time and unseals it each time (config/vault/bootstrap.py).
#
# This suits one machine. In production use several nodes, TLS, and auto-unseal by a KMS: whoever reads the volume
# of vault-bootstrap can unseal this one.

storage "raft" {
  path    = "/vault/file"
  node_id = "vault-1"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  # Plain HTTP: the port is not published, only containers of the compose file's internal network reach it.
  tls_disable = true
}

api_addr     = "http://vault:8200"
cluster_addr = "http://127.0.0.1:8201"

# Containers mostly may not lock memory; the host should have no swap, or an encrypted one.
disable_mlock = true
ui            = false
