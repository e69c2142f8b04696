// The SDK's half of bench: sendTransaction and waitForExecution, so many at a time.
//
// Input, one JSON line: {account, session, chain, url, call}. Then, for each further line {count, parallel}: that many
// transactions are brought to their end; {cpu_us, wall_us}.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { dirname, join } from 'node:path'
import { privateKeyToAccount } from 'viem/accounts'

const require = createRequire(import.meta.url)
const sdk = require('@rhinestone/sdk')
const registry = require(join(dirname(require.resolve('@rhinestone/sdk')), 'orchestrator/registry.js'))

const owners = (keys) => ({ type: 'ecdsa', accounts: keys.map((key) => privateKeyToAccount(key)) })

function limits(policy) {
  if (policy.type === 'spending-limits') {
    return { ...policy, limits: policy.limits.map(({ token, amount }) => ({ token, amount: BigInt(amount) })) }
  }
  return policy.limit === undefined ? policy : { ...policy, limit: BigInt(policy.limit) }
}

async function setUp({ account: { kind, address, ownerKeys }, session, chain, url, call }) {
  const target = registry.getChainById(chain)
  const account = await new sdk.RhinestoneSDK({
    apiKey: 'benchmark',
    endpointUrl: url,
    provider: { type: 'custom', urls: { [chain]: url } },
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
  return async () => {
    const sent = await account.sendTransaction({ chain: target, calls: [call], signers, sponsored: true })
    await account.waitForExecution(sent, false)
  }
}

let trade
for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line)
  let answer = {}
  if (trade === undefined) {
    trade = await setUp(question)
    await trade()
  } else {
    const [cpu, wall] = [process.cpuUsage(), process.hrtime.bigint()]
    let left = question.count
    const lane = async () => {
      while (left > 0) {
        left -= 1
        await trade()
      }
    }
    await Promise.all(Array.from({ length: question.parallel }, lane))
    const { user, system } = process.cpuUsage(cpu)
    answer = { cpu_us: user + system, wall_us: Number((process.hrtime.bigint() - wall) / 1000n) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
