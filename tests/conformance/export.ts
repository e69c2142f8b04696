// Approves and exports one session per account kind, restricted and not, for derived and for existing accounts, with
// one and with two owners. Prints a JSON list of {label, kind, file}.
import type { RhinestoneAccountConfig, Session } from '@rhinestone/sdk'
import { getAddress, type Hex } from 'viem'
import { privateKeyToAccount, toAccount } from 'viem/accounts'
import { base } from 'viem/chains'
import { createAccount, need, TRANSFER, USDC } from './devnet.ts'
import { exportSession } from './export-session.ts'

const first = privateKeyToAccount(need('OWNER_KEY') as Hex)
const second = privateKeyToAccount(need('SECOND_OWNER_KEY') as Hex)
const sessionKey = toAccount(getAddress(need('WORKER_ADDRESS')))
const validUntil = Number(need('VALID_UNTIL_MS'))

const one = { type: 'ecdsa' as const, accounts: [first] }
const two = { type: 'ecdsa' as const, accounts: [second, first], threshold: 2 }
const existing = { address: getAddress(need('EXISTING_ACCOUNT')) }

const restricted: Session = {
  chain: base,
  owners: { type: 'ecdsa', accounts: [sessionKey] },
  restrictToActions: true,
  actions: [
    {
      target: USDC,
      selector: TRANSFER,
      policies: [
        { type: 'spending-limits', limits: [{ token: USDC, amount: 2n ** 255n }] },
        { type: 'time-frame', validUntil, validAfter: 0 },
        { type: 'usage-limit', limit: 2n ** 128n - 1n },
        { type: 'value-limit', limit: 1n },
      ],
    },
    { target: USDC, selector: '0x095ea7b3', policies: [{ type: 'sudo' }] },
  ],
}
const open: Session = { ...restricted, restrictToActions: false }

const configs: Record<string, Pick<RhinestoneAccountConfig, 'account' | 'owners' | 'initData'>> = {
  'default kind': { owners: one },
  nexus: { account: { type: 'nexus' }, owners: one },
  safe: { account: { type: 'safe' }, owners: one },
  kernel: { account: { type: 'kernel' }, owners: one },
  startale: { account: { type: 'startale' }, owners: one },
  'nexus, two owners': { account: { type: 'nexus' }, owners: two },
  'safe, two owners': { account: { type: 'safe' }, owners: two },
  'existing nexus': { account: { type: 'nexus' }, owners: one, initData: existing },
  'existing safe': { account: { type: 'safe' }, owners: one, initData: existing },
}

const exported: { label: string; kind: string; file: string }[] = []
for (const [label, config] of Object.entries(configs)) {
  const account = await createAccount(config)
  for (const [scope, session] of Object.entries({ restricted, open })) {
    const file = await exportSession(account, session)
    exported.push({ label: `${label}, ${scope}`, kind: config.account?.type ?? 'nexus', file })
  }
}
process.stdout.write(JSON.stringify(exported))
