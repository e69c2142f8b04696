// The devnet of the environment, as the SDK sees it.
import { type RhinestoneAccount, type RhinestoneAccountConfig, RhinestoneSDK } from '@rhinestone/sdk'
import { type Address, createPublicClient, erc20Abi, getAddress, type Hex, http } from 'viem'
import { arbitrum, base } from 'viem/chains'

export const USDC: Address = '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913'
export const USDC_ON_ARBITRUM: Address = '0xaf88d065e77c8cC2239327C5EDb3A432268e5831'
export const TRANSFER: Hex = '0xa9059cbb'

/** A variable of the environment; the caller gives every one. */
export function need(name: string): string {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set`)
  return value
}

/** Only a devnet of two chains has it. */
const arbitrumUrl = process.env.ARBITRUM_RPC_URL

const apiKey = need('API_KEY')
const urls: Record<number, string> = { [base.id]: need('RPC_URL') }
if (arbitrumUrl) urls[arbitrum.id] = arbitrumUrl

const rhinestone = new RhinestoneSDK({
  apiKey,
  endpointUrl: need('ORCHESTRATOR_URL'),
  provider: { type: 'custom', urls },
})
const chain = createPublicClient({ chain: base, transport: http(need('RPC_URL')) })

/** A smart account with sessions switched on, owned by ECDSA keys. */
export function createAccount(config: Pick<RhinestoneAccountConfig, 'account' | 'owners' | 'initData'>) {
  return rhinestone.createAccount({ ...config, experimental_sessions: { enabled: true } })
}

/** Put the account on the devnet's chain; the real chain would deploy it from its setupOps. */
export async function putOnChain(account: RhinestoneAccount, usdc: bigint): Promise<void> {
  const { owners } = account.config
  if (owners?.type !== 'ecdsa') throw new Error('the devnet knows ECDSA owners only')
  const body = {
    address: account.getAddress(),
    kind: account.config.account?.type ?? 'nexus',
    owners: owners.accounts.map((owner) => owner.address),
    threshold: owners.threshold ?? 1,
    usdc: usdc.toString(),
  }
  const reply = await fetch(`${need('ORCHESTRATOR_URL')}/devnet/accounts`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-api-key': need('API_KEY') },
    body: JSON.stringify(body),
  })
  if (!reply.ok) throw new Error(`the devnet refuses the account: ${await reply.text()}`)
}

/** USDC of an address in base units, read from the chain. */
export function usdcOf(address: string): Promise<bigint> {
  return chain.readContract({ address: USDC, abi: erc20Abi, functionName: 'balanceOf', args: [getAddress(address)] })
}

/** The same on Arbitrum. */
export function usdcOnArbitrum(address: string): Promise<bigint> {
  return createPublicClient({ chain: arbitrum, transport: http(need('ARBITRUM_RPC_URL')) }).readContract({
    address: USDC_ON_ARBITRUM,
    abi: erc20Abi,
    functionName: 'balanceOf',
    args: [getAddress(address)],
  })
}
