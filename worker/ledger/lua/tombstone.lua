-- Put the tombstone of an archived record back, unless the ledger knows the intent.
--
-- KEYS  intent, archived
-- ARGV  the tombstone's field, tombstone
-- Returns 1 if it was missing, else 0.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
return redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
