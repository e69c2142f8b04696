// What a frontend runs when the user approves a session: one signature, and the file for `session-executor sessions import`.
import type { OwnerSet, RhinestoneAccount, Session } from '@rhinestone/sdk'

/** The session key may be known by its address only: `owners: { type: 'ecdsa', accounts: [toAccount('0x…')] }`. */
export async function exportSession(account: RhinestoneAccount, session: Session): Promise<string> {
  const details = await account.experimental_getSessionDetails([session])
  const userSignature = await account.experimental_signEnableSession(details) // the user's one approval
  const { account: provider, owners: accountOwners, initData } = account.config
  const { chain, owners, ...scope } = session
  const setup = initData && !('factory' in initData) ? undefined : account.getInitData()
  const file = {
    sdk: '1.15.0',
    account: {
      address: account.getAddress(),
      kind: provider?.type ?? 'nexus',
      owners: addresses(accountOwners),
      setupOps: setup ? [{ to: setup.factory, data: setup.factoryData }] : [],
    },
    chain: chain.id,
    owners: addresses(owners),
    ...scope,
    nonce: details.nonces[0],
    enableData: { userSignature, hashesAndChainIds: details.hashesAndChainIds, sessionToEnableIndex: 0 },
  }
  return JSON.stringify(file, (_, value) => (typeof value === 'bigint' ? value.toString() : value), 2)
}

function addresses(owners?: OwnerSet) {
  if (owners?.type !== 'ecdsa') throw new Error('only ECDSA owners can be exported')
  return { ...owners, accounts: owners.accounts.map((owner) => owner.address) }
}
