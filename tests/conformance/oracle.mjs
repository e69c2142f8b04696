// Answers questions with the functions of the installed @rhinestone/sdk: one JSON line in, one JSON line out.
//
// Nothing leaves the process: `fetch` is replaced by a stub that plays the chain and the orchestrator of the question
// being answered, and records what the SDK sent to them. Integers travel as decimal strings, as in a session file.
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { hashTypedData } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'

const require = createRequire(import.meta.url)
const sdk = require('@rhinestone/sdk')
// These functions are not part of the package's exports, so they are loaded by path.
const root = dirname(require.resolve('@rhinestone/sdk'))
const smartSessions = require(join(root, 'modules/validators/smart-sessions.js'))
const registry = require(join(root, 'orchestrator/registry.js'))
const executionUtils = require(join(root, 'execution/utils.js'))

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

let stub = { chain: () => '0x', orchestrator: () => ({}), reads: [], requests: [] }

globalThis.fetch = async (resource, init) => {
  const url = typeof resource === 'string' ? resource : (resource.url ?? String(resource))
  const text = init?.body ?? ''
  const reply = (value, status = 200) =>
    new Response(JSON.stringify(value), { status, headers: { 'content-type': 'application/json' } })
  if (url.startsWith(RPC_URL)) {
    const call = JSON.parse(text)
    if (call.method !== 'eth_call') throw new Error(`unexpected JSON-RPC method ${call.method}`)
    const { to, data } = call.params[0]
    stub.reads.push({ to, data })
    return reply({ jsonrpc: '2.0', id: call.id, result: stub.chain(data) })
  }
  if (url.startsWith(ORCHESTRATOR_URL)) {
    const path = url.slice(ORCHESTRATOR_URL.length)
    const headers = Object.fromEntries(new Headers(init?.headers).entries())
    stub.requests.push({ method: init?.method ?? 'GET', path, headers, body: text })
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

// owners: {keys, threshold?, module?} with private keys, since the SDK signs with them
function owners({ keys, threshold, module }) {
  return {
    type: 'ecdsa',
    accounts: keys.map((key) => privateKeyToAccount(key)),
    ...(threshold !== undefined && { threshold }),
    ...(module !== undefined && { module }),
  }
}

// session: the JSON of a session file, with owners as above and chain as an id
function toSession(input) {
  const { chain, owners: ownerSet, ...rest } = input
  return { ...revive(rest), chain: registry.getChainById(Number(chain)), owners: owners(ownerSet) }
}

// account: {kind, owners, address?}; an address means an existing account, else it is derived from the owners
async function toAccount({ kind, owners: ownerSet, address }, chainIds) {
  const instance = new sdk.RhinestoneSDK({
    apiKey: 'oracle',
    endpointUrl: ORCHESTRATOR_URL,
    provider: { type: 'custom', urls: Object.fromEntries(chainIds.map((id) => [id, RPC_URL])) },
  })
  return instance.createAccount({
    account: { type: kind },
    owners: owners(ownerSet),
    experimental_sessions: { enabled: true },
    ...(address !== undefined && { initData: { address } }),
  })
}

function setupOps(account) {
  const { setupOps } = executionUtils.getIntentAccount(account.config, undefined, undefined)
  return setupOps
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

  // A whole sendTransaction on the session's chain: the route request, the submitted body, the reads in between.
  // enabled is what the chain says of the session; intentOp is what the orchestrator quotes.
  transaction: async ({ account: input, session: sessionInput, enableData, enabled, verifyExecutions, calls, sponsored, intentOp }) => {
    const session = toSession(sessionInput)
    const account = await toAccount(input, [session.chain.id])
    stub = {
      reads: [],
      requests: [],
      chain: (data) => (data.startsWith(IS_PERMISSION_ENABLED) ? word(enabled ? 1 : 0) : '0x'),
      orchestrator: (path) =>
        path === '/intents/route' ? { intentOp, intentCost: {} } : { result: { id: '1', status: 'PENDING' } },
    }
    await account.sendTransaction({
      chain: session.chain,
      calls: revive(calls),
      ...(sponsored !== undefined && { sponsored }),
      signers: {
        type: 'experimental_session',
        session,
        ...(enableData && {
          enableData: {
            ...enableData,
            hashesAndChainIds: enableData.hashesAndChainIds.map(({ chainId, sessionDigest }) => ({
              chainId: BigInt(chainId),
              sessionDigest,
            })),
          },
        }),
        ...(verifyExecutions !== undefined && { verifyExecutions }),
      },
    })
    const messages = account.getTransactionMessages({ intentRoute: { intentOp } })
    return {
      reads: stub.reads,
      requests: stub.requests.map(({ method, path, headers }) => ({ method, path, headers })),
      route: JSON.parse(stub.requests[0].body),
      submit: JSON.parse(stub.requests[1].body),
      originDigests: messages.origin.map((message) => hashTypedData(message)),
    }
  },
}

// --- accounts: derived from a configuration, and what an owner sends from them

const actions = require('@rhinestone/sdk/actions/smart-sessions')
const modules = require(join(root, 'modules/index.js'))
const accountsOf = require(join(root, 'accounts/index.js'))

// options: {salt?, nonce?, version?} of the account's configuration; nonce is a bigint to the SDK
function configured({ kind, owners: ownerSet, address, options = {}, sessions = true }, chainIds = []) {
  const { nonce, ...rest } = options
  const instance = new sdk.RhinestoneSDK({
    apiKey: 'oracle',
    endpointUrl: ORCHESTRATOR_URL,
    provider: { type: 'custom', urls: Object.fromEntries(chainIds.map((id) => [id, RPC_URL])) },
  })
  return instance.createAccount({
    account: { type: kind, ...rest, ...(nonce !== undefined && { nonce: BigInt(nonce) }) },
    owners: owners(ownerSet),
    experimental_sessions: { enabled: sessions },
    ...(address !== undefined && { initData: { address } }),
  })
}

Object.assign(methods, {
  // Address, init code, the ops that a route request carries, and the calls that install and uninstall the emissary
  // and install the executor.
  derive: async ({ account: input }) => {
    const account = await configured(input)
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

  // A whole sendTransaction signed by the owners.
  ownerTransaction: async ({ account: input, chain, calls, sponsored, intentOp }) => {
    const account = await configured(input, [chain])
    stub = {
      reads: [],
      requests: [],
      chain: () => '0x',
      orchestrator: (path) =>
        path === '/intents/route' ? { intentOp, intentCost: {} } : { result: { id: '1', status: 'PENDING' } },
    }
    await account.sendTransaction({
      chain: registry.getChainById(chain),
      calls: revive(calls),
      ...(sponsored !== undefined && { sponsored }),
    })
    return { reads: stub.reads, route: stub.requests[0].body, submit: JSON.parse(stub.requests[1].body) }
  },
})

function encode(value) {
  return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? item.toString() : item))
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line)
  let answer
  try {
    if (!(method in methods)) throw new Error(`unknown method ${method}`)
    answer = { id, result: await methods[method](params) }
  } catch (error) {
    answer = { id, error: { name: error?.name ?? 'Error', message: String(error?.message ?? error) } }
  }
  process.stdout.write(`${encode(answer)}\n`)
}
