// A chain and an orchestrator that cost next to nothing: every call is quoted as asked, every submit is accepted, and
// every status is COMPLETED. Both sides of the benchmark talk to it, so its own time is nobody's.
//
// Arguments: the file of a recorded intentOp, and milliseconds to wait before each answer of the orchestrator.
// Prints its port.
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

const [file, delay] = [process.argv[2], Number(process.argv[3] ?? 0)]
const recorded = readFileSync(file, 'utf8')
const chain = JSON.parse(recorded).elements[0].chainId
const word = (value) => value.toString(16).padStart(64, '0')
const nonce = () => BigInt(`0x${randomBytes(32).toString('hex')}`).toString()
let pending = false
let polls = 0

function quote(request) {
  const op = JSON.parse(recorded)
  const expires = String(Math.floor(Date.now() / 1000) + 120)
  const [element] = op.elements
  const { mandate } = element
  const vt = `0x02${request.options.signatureMode.toString(16).padStart(2, '0')}`.padEnd(66, '0')
  op.sponsor = mandate.recipient = op.signedMetadata.account.address = request.account.address
  op.nonce = nonce()
  op.targetExecutionNonce = nonce()
  op.expires = mandate.fillDeadline = expires
  mandate.destinationOps = { vt, ops: request.destinationExecutions.map(asOp) }
  mandate.preClaimOps = { vt, ops: (request.preClaimExecutions?.[chain] ?? []).map(asOp) }
  return {
    intentOp: op,
    intentCost: {
      hasFulfilledAll: true,
      tokensReceived: [],
      sponsoredFee: { relayer: 0, protocol: 0 },
      tokensSpent: {},
    },
  }
}

const asOp = ({ to, value, data }) => ({ to, value: String(value), data })

function status() {
  if (pending) return { status: 'PENDING', claims: [], destinationChainId: Number(chain), userAddress: '0x' }
  const hash = `0x${'5b'.repeat(32)}`
  const now = Math.floor(Date.now() / 1000)
  return {
    status: 'COMPLETED',
    claims: [{ chainId: Number(chain), status: 'CLAIMED', claimTimestamp: now, claimTransactionHash: hash }],
    destinationChainId: Number(chain),
    userAddress: '0x',
    fillTimestamp: now,
    fillTransactionHash: hash,
  }
}

function rpc({ id, method }) {
  const answers = {
    eth_chainId: () => `0x${Number(chain).toString(16)}`,
    eth_blockNumber: () => '0x1',
    eth_getCode: () => '0x00',
    // isPermissionEnabled: yes
    eth_call: () => `0x${word(1)}`,
    eth_getBlockByNumber: () => ({
      number: '0x1',
      hash: `0x${word(1)}`,
      timestamp: `0x${Math.floor(Date.now() / 1000).toString(16)}`,
    }),
  }
  const answer = answers[method]
  return answer
    ? { jsonrpc: '2.0', id, result: answer() }
    : { jsonrpc: '2.0', id, error: { code: -32601, message: method } }
}

function answer(method, url, body) {
  if (url === '/') return [200, Array.isArray(body) ? body.map(rpc) : rpc(body)]
  if (url === '/pending') return [200, { pending: (pending = body.pending) }]
  if (url === '/polls') return [200, { polls }]
  if (url.startsWith('/intents/route')) return [200, quote(body)]
  if (method === 'POST') return [201, { result: { id: body.signedIntentOp.nonce, status: 'PENDING' } }]
  polls += 1
  return [200, status()]
}

const server = createServer((request, response) => {
  const chunks = []
  request.on('data', (chunk) => chunks.push(chunk))
  request.on('end', () => {
    const text = Buffer.concat(chunks).toString()
    const [code, json] = answer(request.method, request.url, text ? JSON.parse(text) : undefined)
    const send = () => {
      response.writeHead(code, { 'content-type': 'application/json' })
      response.end(JSON.stringify(json))
    }
    if (delay && request.url !== '/') setTimeout(send, delay)
    else send()
  })
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`))
