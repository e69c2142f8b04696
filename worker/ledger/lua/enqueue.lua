-- Create a record in QUEUED, or find the one that is there.
--
-- KEYS  intent, history, open, all, counts, archived
-- ARGV  id, payload, payload hash, idempotency key, session id, source, note, now ms, due ms,
--       seal ('' = none), the tombstone's field
-- Returns {'created' | 'exists', flat hash}, {'archived', tombstone} or {'conflict'}.

local found = redis.call('HGET', KEYS[1], 'payload_hash')
if found then
  if found ~= ARGV[3] then
    return { 'conflict' }
  end
  return { 'exists', redis.call('HGETALL', KEYS[1]) }
end
local tombstone = redis.call('HGET', KEYS[6], ARGV[11])
if tombstone then
  local hash = string.match(tombstone, '^(%x+) ')
  if not hash or string.sub(ARGV[3], 1, #hash) ~= hash then
    return { 'conflict' }
  end
  return { 'archived', tombstone }
end

redis.call('HSET', KEYS[1],
  'state', 'QUEUED', 'fence', '0', 'attempts', '0', 'lease_until_ms', '0', 'lease_who', '',
  'payload', ARGV[2], 'payload_hash', ARGV[3], 'idempotency_key', ARGV[4], 'session_id', ARGV[5],
  'source', ARGV[6], 'note', ARGV[7], 'created_ms', ARGV[8], 'updated_ms', ARGV[8])
if ARGV[10] ~= '' then
  redis.call('HSET', KEYS[1], 'f:seal', ARGV[10])
end
redis.call('ZADD', KEYS[3], ARGV[9], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[8], ARGV[1])
history_append(KEYS[2], ARGV[8], ARGV[6], '', 'QUEUED', 'enqueued')
count_move(KEYS[5], '', 'QUEUED')
return { 'created', redis.call('HGETALL', KEYS[1]) }
