// A user of the SDK trades over two chains with a session key: USDC of Base arrives on Arbitrum, and a call is made there.
// The first trade carries the owner's one approval of both sessions, the second finds them enabled; the third is signed for
// an arbiter that the session's claim policy does not list, which the SDK does not look at.
// Prints one JSON object.
import type { ChainSessionConfig, Permit2ClaimPolicy, Session } from '@rhinestone/sdk'
import { type Address, encodeFunctionData, erc20Abi, getAddress, type Hex, parseUnits } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { arbitrum, base } from 'viem/chains'
import {
  createAccount,
  need,
  putOnChain,
  TRANSFER,
  USDC,
  USDC_ON_ARBITRUM,
  usdcOnArbitrum,
} from './devnet.ts'

const owner = privateKeyToAccount(need('OWNER_KEY') as Hex)
const recipient = getAddress(need('RECIPIENT'))
const account = await createAccount({
  account: { type: need('ACCOUNT_KIND') as 'nexus' },
  owners: { type: 'ecdsa', accounts: [owner] },
})
await putOnChain(account, parseUnits('1000', 6))

function session(chain: Session['chain'], token: Address, key: Hex, claim?: Permit2ClaimPolicy): Session {
  return {
    chain,
    owners: { type: 'ecdsa', accounts: [privateKeyToAccount(key)] },
    actions: [
      {
        target: token,
        selector: TRANSFER,
        policies: [{ type: 'spending-limits', limits: [{ token, amount: parseUnits('50', 6) }] }],
      },
    ],
    ...(claim ? { claimPolicies: [claim] } : {}),
  }
}

async function sessions(key: Hex, arbiter: Address): Promise<Record<number, ChainSessionConfig>> {
  const claim: Permit2ClaimPolicy = {
    type: 'permit2-claim',
    arbiters: [arbiter],
    tokensIn: [{ chainId: base.id, token: USDC }],
    tokensOut: [{ chainId: arbitrum.id, token: USDC_ON_ARBITRUM }],
    recipientIsSponsor: true,
  }
  const both = [session(base, USDC, key, claim), session(arbitrum, USDC_ON_ARBITRUM, key)]
  const details = await account.experimental_getSessionDetails(both)
  const userSignature = await account.experimental_signEnableSession(details)
  return Object.fromEntries(
    both.map((one, index) => [
      one.chain.id,
      {
        session: one,
        enableData: {
          userSignature,
          hashesAndChainIds: details.hashesAndChainIds,
          sessionToEnableIndex: index,
        },
      },
    ]),
  )
}

async function trade(chains: Record<number, ChainSessionConfig>, pay: bigint) {
  const sent = await account.sendTransaction({
    sourceChains: [base],
    targetChain: arbitrum,
    calls: [
      {
        to: USDC_ON_ARBITRUM,
        data: encodeFunctionData({ abi: erc20Abi, functionName: 'transfer', args: [recipient, pay] }),
      },
    ],
    tokenRequests: [{ address: USDC_ON_ARBITRUM, amount: parseUnits('5', 6) }],
    settlementLayers: ['ACROSS'],
    sponsored: true,
    signers: { type: 'experimental_session', sessions: chains },
  })
  return account.waitForExecution(sent, false)
}

// the SDK is content with FILLED: the claim on Base may come later
const balances = async () => ({
  arbitrum: await usdcOnArbitrum(account.getAddress()),
  recipient: await usdcOnArbitrum(recipient),
})

const known = await sessions(need('SESSION_KEY') as Hex, getAddress(need('ARBITER')))
const before = await balances()
await trade(known, parseUnits('1', 6))
const first = await balances()
await trade(known, parseUnits('2', 6))
const second = await balances()

let refusal: string | undefined
try {
  await trade(await sessions(need('OTHER_SESSION_KEY') as Hex, recipient), 1n)
} catch (error) {
  refusal = error instanceof Error ? error.constructor.name : String(error)
}
const third = await balances()

const report = { account: account.getAddress(), before, first, second, third, refusal }
process.stdout.write(JSON.stringify(report, (_, value) => (typeof value === 'bigint' ? value.toString() : value)))
