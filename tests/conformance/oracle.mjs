// Answers questions with the functions of the installed @rhinestone/sdk: one JSON line in, one JSON line out.
//
// Nothing leaves the process: `fetch` is replaced by a stub that plays the chain and the orchestrator of the question
// being answered, and records what the SDK sent to them. Integers travel as decimal strings, as in a session file.
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'

const require = createRequire(import.meta.url)

// Most of what the SDK hashes it hashes again and again (an account's init code for each look at its address), which
// takes half of a draw's time. Before anything else is loaded, the digests of hex texts are remembered.
const hashing = require(join(dirname(require.resolve('viem')), 'utils/hash/keccak256.js'))
const keccak256 = hashing.keccak256
const digests = new Map()
hashing.keccak256 = (value, to) => {
  if (typeof value !== 'string' || (to ?? 'hex') !== 'hex') return keccak256(value, to)
  let digest = digests.get(value)
  if (digest === undefined) {
    digest = keccak256(value)
    digests.set(value, digest)
  }
  return digest
}

const { hashTypedData } = require('viem')
const { privateKeyToAccount } = require('viem/accounts')
// These functions are not part of the package's exports, so they are loaded by path.
const root = dirname(require.resolve('@rhinestone/sdk'))

// The SDK derives an account's address anew each time it needs it, some forty times in a draw; once is enough.
const accountsOf = require(join(root, 'accounts/index.js'))
const getAddress = accountsOf.getAddress
const addresses = new WeakMap()
accountsOf.getAddress = (config) => {
  if (!addresses.has(config)) addresses.set(config, getAddress(config))
  return addresses.get(config)
}

const sdk = require('@rhinestone/sdk')
const smartSessions = require(join(root, 'modules/validators/smart-sessions.js'))
const registry = require(join(root, 'orchestrator/registry.js'))
const executionUtils = require(join(root, 'execution/utils.js'))
const actions = require('@rhinestone/sdk/actions/smart-sessions')
const modules = require(join(root, 'modules/index.js'))
const { jcsCanonicalise } = require(join(root, 'jwt-server/jcs.js'))

const RPC_URL = 'http://chain.invalid'
const ORCHESTRATOR_URL = 'http://orchestrator.invalid'
const GET_NONCE = '0xb73f6902'
const IS_PERMISSION_ENABLED = '0x27f65402'

// Fields that the SDK wants as bigint; everywhere else a decimal string is meant as text.
const BIGINTS = new Set([
  'limit',
  'amount',
  'valueLimitPerUse',
  'calldataOffset',
  'usageLimit',
  'min',
  'max',
  'value',
  'maxTotal',
  'maxSpend',
])

// Which chain an address of RPC_URL/<chain id> belongs to is part of what is recorded.
let stub = { chain: () => '0x', orchestrator: () => '{}', reads: [], requests: [] }

globalThis.fetch = async (resource, init) => {
  const url = typeof resource === 'string' ? resource : (resource.url ?? String(resource))
  const text = init?.body ?? ''
  const reply = (body) => new Response(body, { headers: { 'content-type': 'application/json' } })
  if (url.startsWith(RPC_URL)) {
    const call = JSON.parse(text)
    if (call.method !== 'eth_call') throw new Error(`unexpected JSON-RPC method ${call.method}`)
    const { to, data } = call.params[0]
    const chain = Number(url.slice(RPC_URL.length + 1))
    stub.reads.push({ chain, to, data })
    return reply(JSON.stringify({ jsonrpc: '2.0', id: call.id, result: stub.chain(data, chain) }))
  }
  if (url.startsWith(ORCHESTRATOR_URL)) {
    const path = url.slice(ORCHESTRATOR_URL.length)
    stub.requests.push({ method: init?.method ?? 'GET', path, body: text })
    return reply(stub.orchestrator(path))
  }
  throw new Error(`unexpected request to ${url}`)
}

const word = (value) => `0x${BigInt(value).toString(16).padStart(64, '0')}`

function revive(value, name = '') {
  if (Array.isArray(value)) return value.map((item) => revive(item))
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item, key)]))
  }
  if (typeof value === 'string' && /^[0-9]+$/.test(value)) {
    if (BIGINTS.has(name) || name === 'referenceValue') return BigInt(value)
  }
  return value
}

// Draws take their keys from a fixed set; deriving an account from one costs more than signing with it.
const signers = new Map()

function signerOf(key) {
  if (!signers.has(key)) signers.set(key, privateKeyToAccount(key))
  return signers.get(key)
}

// owners: {keys, threshold?, module?} with private keys, since the SDK signs with them
function owners({ keys, threshold, module }) {
  return {
    type: 'ecdsa',
    accounts: keys.map(signerOf),
    ...(threshold !== undefined && { threshold }),
    ...(module !== undefined && { module }),
  }
}

// session: the JSON of a session file, with owners as above and chain as an id
function toSession(input) {
  const { chain, owners: ownerSet, ...rest } = input
  return { ...revive(rest), chain: registry.getChainById(Number(chain)), owners: owners(ownerSet) }
}

// account: {kind, owners, address?, options?, sessions?}; an address means an existing account, else it is derived from
// the owners and the options {salt?, nonce?, version?}. sessions false leaves the session modules out.
function toAccount({ kind, owners: ownerSet, address, options = {}, sessions = true }, chainIds = []) {
  const { nonce, ...rest } = options
  const instance = new sdk.RhinestoneSDK({
    apiKey: 'oracle',
    endpointUrl: ORCHESTRATOR_URL,
    provider: { type: 'custom', urls: Object.fromEntries(chainIds.map((id) => [id, `${RPC_URL}/${id}`])) },
  })
  return instance.createAccount({
    account: { type: kind, ...rest, ...(nonce !== undefined && { nonce: BigInt(nonce) }) },
    owners: owners(ownerSet),
    experimental_sessions: { enabled: sessions },
    ...(address !== undefined && { initData: { address } }),
  })
}

function setupOps(account) {
  const { setupOps } = executionUtils.getIntentAccount(account.config, undefined, undefined)
  return setupOps
}

// A transaction in JSON: chains by id.
function toTransaction({ chain, sourceChains, targetChain, sourceAssets, calls, tokenRequests, sourceCalls, gasLimit, ...rest }) {
  const chainOf = (id) => registry.getChainById(Number(id))
  return {
    ...rest,
    ...(chain !== undefined && { chain: chainOf(chain) }),
    ...(sourceChains !== undefined && { sourceChains: sourceChains.map(chainOf) }),
    ...(targetChain !== undefined && { targetChain: chainOf(targetChain) }),
    ...(gasLimit !== undefined && { gasLimit: BigInt(gasLimit) }),
    ...(calls !== undefined && { calls: revive(calls) }),
    ...(tokenRequests !== undefined && { tokenRequests: revive(tokenRequests) }),
    ...(sourceCalls !== undefined && { sourceCalls: revive(sourceCalls) }),
    ...(sourceAssets !== undefined && {
      sourceAssets: revive(sourceAssets).map((item) =>
        typeof item === 'string' ? item : { ...item, chain: chainOf(item.chain) },
      ),
    }),
  }
}

// A signer in JSON: {session, enableData?, verifyExecutions?} or {sessions: {<chain id>: the same}, verifyExecutions?}.
function toSigners({ sessions, ...one }) {
  const toSigner = ({ session, enableData, verifyExecutions }) => ({
    ...(session !== undefined && { session: toSession(session) }),
    ...(enableData !== undefined && {
      enableData: {
        ...enableData,
        hashesAndChainIds: enableData.hashesAndChainIds.map(({ chainId, sessionDigest }) => ({
          chainId: BigInt(chainId),
          sessionDigest,
        })),
      },
    }),
    ...(verifyExecutions !== undefined && { verifyExecutions }),
  })
  return {
    type: 'experimental_session',
    ...toSigner(one),
    ...(sessions !== undefined && {
      sessions: Object.fromEntries(Object.entries(sessions).map(([id, signer]) => [id, toSigner(signer)])),
    }),
  }
}

const methods = {
  // What the installed package says it is.
  version: async () => ({ sdk: require(join(root, '../../package.json')).version }),

  // The registry: every chain with its wrapped native token (absent: it has none) and its tokens.
  chains: async () =>
    registry.getSupportedChainIds().map((id) => {
      const chain = registry.getChainById(id)
      let wrapped
      try {
        wrapped = registry.getWrappedTokenAddress(chain)
      } catch {
        wrapped = undefined
      }
      const tokens = registry.getSupportedTokens(id).map(({ symbol, address, decimals }) => ({ symbol, address, decimals }))
      return { id, wrapped, testnet: registry.isTestnet(id), tokens }
    }),

  // Encoding of one session; dev means useDevContracts.
  session: async ({ session, dev = false }) => {
    const made = toSession(session)
    return { sessionData: smartSessions.getSessionData(made, dev), permissionId: smartSessions.getPermissionId(made) }
  },

  // Encoding of one policy; dev means useDevContracts.
  policy: async ({ policy, dev = false }) => smartSessions.getPolicyData(revive(policy), dev),

  // The account, the digests to sign, the owner's signature and the setConfig call; nonces[i] is the chain's answer
  // for sessions[i].
  enable: async ({ account: input, sessions: inputs, nonces, index }) => {
    const sessions = inputs.map(toSession)
    const account = await toAccount(input, sessions.map((session) => session.chain.id))
    const left = [...nonces]
    stub = { ...stub, reads: [], chain: (data) => (data.startsWith(GET_NONCE) ? word(left.shift()) : '0x') }
    const details = await account.experimental_getSessionDetails(sessions)
    const reads = stub.reads
    const userSignature = await account.experimental_signEnableSession(details)
    const call = await smartSessions.getEnableSessionCall(
      account.getAddress(),
      sessions[index],
      userSignature,
      details.hashesAndChainIds,
      index,
    )
    return {
      address: account.getAddress(),
      setupOps: setupOps(account),
      hashesAndChainIds: details.hashesAndChainIds,
      digest: hashTypedData(details.data),
      userSignature,
      call,
      reads,
    }
  },

  // Address, init code, the ops that a route request carries, and the calls that install and uninstall the emissary
  // and install the executor.
  derive: async ({ account: input }) => {
    const account = await toAccount(input)
    const context = { config: account.config, accountAddress: account.getAddress() }
    return {
      address: account.getAddress(),
      initCode: accountsOf.getInitCode(account.config),
      setupOps: setupOps(account),
      enable: await actions.experimental_enable().resolve(context),
      disable: await actions.experimental_disable().resolve(context),
      executor: accountsOf.getModuleInstallationCalls(account.config, modules.getIntentExecutor(account.config)),
    }
  },

  // A whole sendTransaction, by the owners or with signers: every request with its body as it was sent, each read of
  // the chain once, and the digests of the messages.
  // enabled is what each chain says of its session; route is the text of the orchestrator's quote.
  send: async ({ account: input, chains, transaction, signers: signerSet, enabled = {}, route }) => {
    const account = await toAccount(input, chains)
    stub = {
      reads: [],
      requests: [],
      chain: (data, chain) => (data.startsWith(IS_PERMISSION_ENABLED) ? word(enabled[chain] ? 1 : 0) : '0x'),
      orchestrator: (path) =>
        path === '/intents/route' ? route : JSON.stringify({ result: { id: '1', status: 'PENDING' } }),
    }
    await account.sendTransaction({
      ...toTransaction(transaction),
      ...(signerSet !== undefined && { signers: toSigners(signerSet) }),
    })
    const { reads, requests } = stub
    const messages = account.getTransactionMessages({ intentRoute: JSON.parse(route) })
    return {
      reads: [...new Map(reads.map((read) => [JSON.stringify(read), read])).values()].sort(
        (first, second) => first.chain - second.chain || (first.data < second.data ? -1 : 1),
      ),
      requests,
      originDigests: messages.origin.map((message) => hashTypedData(message)),
    }
  },

  // The digest of a quote request under which its intent may be sponsored.
  intentDigest: async ({ body }) => createHash('sha256').update(jcsCanonicalise(JSON.parse(body))).digest('hex'),

  // Several questions in one line, answered in order: [{method, params}] gives [{result} or {error}].
  batch: async ({ questions }) => {
    const answers = []
    digests.clear()
    // one after the other, since they share the stub
    for (const { method, params } of questions) answers.push(await answer(method, params))
    return answers
  },
}

function encode(value) {
  return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? item.toString() : item))
}

async function answer(method, params) {
  try {
    if (!(method in methods)) throw new Error(`unknown method ${method}`)
    return { result: await methods[method](params) }
  } catch (error) {
    return { error: { name: error?.name ?? 'Error', message: String(error?.message ?? error) } }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line)
  process.stdout.write(`${encode({ id, ...(await answer(method, params)) })}\n`)
}
