// The SDK's half of bench-sign: it signs the intents it is told to, and says what CPU time that took.
//
// Input, one JSON line: {account, session, intentOp, chain}. Output: the signatures it makes. Then, for each further
// line {count}: {cpu_us} of that many intents, JIT and garbage collection included.
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { privateKeyToAccount } from 'viem/accounts'

const require = createRequire(import.meta.url)
const sdk = require('@rhinestone/sdk')
const root = dirname(require.resolve('@rhinestone/sdk'))
const registry = require(join(root, 'orchestrator/registry.js'))
const smartSessions = require(join(root, 'modules/validators/smart-sessions.js'))

// "Is the session enabled?" is a question to the chain and no part of signing, so it costs the SDK nothing here.
smartSessions.isSessionEnabled = async () => true

// The SDK was not given a way to the network; what still tries is a mistake in this script.
globalThis.fetch = async (resource) => {
  throw new Error(`unexpected request to ${resource?.url ?? resource}`)
}

const owners = (keys) => ({ type: 'ecdsa', accounts: keys.map((key) => privateKeyToAccount(key)) })

function limits(policy) {
  if (policy.type === 'spending-limits') {
    return { ...policy, limits: policy.limits.map(({ token, amount }) => ({ token, amount: BigInt(amount) })) }
  }
  return policy.limit === undefined ? policy : { ...policy, limit: BigInt(policy.limit) }
}

async function setUp({ account: { kind, address, ownerKeys }, session, intentOp, chain }) {
  const target = registry.getChainById(chain)
  const account = await new sdk.RhinestoneSDK({
    apiKey: 'benchmark',
    endpointUrl: 'http://orchestrator.invalid',
    provider: { type: 'custom', urls: { [chain]: 'http://chain.invalid' } },
  }).createAccount({
    account: { type: kind },
    owners: owners(ownerKeys),
    experimental_sessions: { enabled: true },
    initData: { address },
  })
  const signers = {
    type: 'experimental_session',
    session: {
      chain: target,
      owners: owners(session.keys),
      actions: session.actions.map((action) => ({ ...action, policies: action.policies.map(limits) })),
      restrictToActions: session.restrictToActions,
    },
  }
  const transaction = { chain: target, calls: [], signers }
  return async () => {
    const signed = await account.signTransaction({ intentRoute: { intentOp, intentCost: {} }, transaction })
    const { originSignatures, destinationSignature, targetExecutionSignature } = signed
    return { originSignatures, destinationSignature, targetExecutionSignature }
  }
}

let sign
for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line)
  let answer
  if (sign === undefined) {
    sign = await setUp(question)
    answer = await sign()
  } else {
    const before = process.cpuUsage()
    for (let left = question.count; left > 0; left -= 1) await sign()
    const { user, system } = process.cpuUsage(before)
    answer = { cpu_us: user + system }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
