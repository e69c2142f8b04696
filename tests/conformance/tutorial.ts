// The SDK's session tutorial, as its own user writes it: details, enable signature, enable by transaction, execute, wait,
// and one transfer above the limit.
// Then a second, restricted session for a key that lives elsewhere is approved and exported, but not enabled.
// Prints one JSON object.
import type { Session } from '@rhinestone/sdk'
import { experimental_enableSession } from '@rhinestone/sdk/actions/smart-sessions'
import { encodeFunctionData, erc20Abi, getAddress, type Hex, parseUnits } from 'viem'
import { privateKeyToAccount, toAccount } from 'viem/accounts'
import { base } from 'viem/chains'
import { createAccount, need, putOnChain, TRANSFER, USDC, usdcOf } from './devnet.ts'
import { exportSession } from './export-session.ts'

const owner = privateKeyToAccount(need('OWNER_KEY') as Hex)
const sessionKey = privateKeyToAccount(need('SESSION_KEY') as Hex)
const recipient = getAddress(need('RECIPIENT'))
const validUntil = Number(need('VALID_UNTIL_MS'))

const account = await createAccount({ owners: { type: 'ecdsa', accounts: [owner] } })
await putOnChain(account, parseUnits('1000', 6))

function spendingSession(owners: Session['owners'], limit: bigint): Session {
  return {
    chain: base,
    owners,
    restrictToActions: true,
    actions: [
      {
        target: USDC,
        selector: TRANSFER,
        policies: [
          { type: 'spending-limits', limits: [{ token: USDC, amount: limit }] },
          { type: 'time-frame', validUntil, validAfter: 0 },
        ],
      },
    ],
  }
}

const session = spendingSession({ type: 'ecdsa', accounts: [sessionKey] }, parseUnits('50', 6))
const enabledBefore = await account.experimental_isSessionEnabled(session)
const details = await account.experimental_getSessionDetails([session])
const enableSignature = await account.experimental_signEnableSession(details)
const enabling = await account.sendTransaction({
  chain: base,
  calls: [experimental_enableSession(session, enableSignature, details.hashesAndChainIds, 0)],
})
const enableResult = await account.waitForExecution(enabling, false)
const enabledAfter = await account.experimental_isSessionEnabled(session)

function transfer(value: bigint) {
  return account.sendTransaction({
    chain: base,
    calls: [
      { to: USDC, data: encodeFunctionData({ abi: erc20Abi, functionName: 'transfer', args: [recipient, value] }) },
    ],
    signers: { type: 'experimental_session', session },
  })
}

const before = { account: await usdcOf(account.getAddress()), recipient: await usdcOf(recipient) }
const trading = await transfer(parseUnits('10', 6))
const tradeResult = await account.waitForExecution(trading, false)
const after = { account: await usdcOf(account.getAddress()), recipient: await usdcOf(recipient) }
// 10 of 50 USDC are spent; the limit of the session refuses 41 more
// (the SDK does not look at the status in the reply to a submit, so it may learn of it by polling only)
async function refused(value: bigint): Promise<string | undefined> {
  try {
    await account.waitForExecution(await transfer(value), false)
    return undefined
  } catch (error) {
    return error instanceof Error ? error.constructor.name : String(error)
  }
}
const refusal = await refused(parseUnits('41', 6))

const workerSession = spendingSession(
  { type: 'ecdsa', accounts: [toAccount(getAddress(need('WORKER_ADDRESS')))] },
  parseUnits(need('WORKER_LIMIT_USDC'), 6),
)
const file = await exportSession(account, workerSession)

const report = {
  account: account.getAddress(),
  enabledBefore,
  enabledAfter,
  enableTx: 'fill' in enableResult ? enableResult.fill.hash : undefined,
  tradeTx: 'fill' in tradeResult ? tradeResult.fill.hash : undefined,
  refusal,
  before,
  after,
  file,
}
process.stdout.write(JSON.stringify(report, (_, value) => (typeof value === 'bigint' ? value.toString() : value)))
