-- An operator confirms a trade that waits for it. The fence is bumped: an attempt that is about to leave the record
-- waiting again can write nothing. Its attempts start afresh.
--
-- KEYS  intent, history, open
-- ARGV  id, who, why, now ms, the attention code of a trade that waits, seal
-- Returns {'ok', flat hash}, {'missing'} or {'illegal', state, attention}.

local now = redis.call('HMGET', KEYS[1], 'state', 'attention')
if not now[1] then
  return { 'missing' }
end
if now[1] ~= 'QUEUED' or now[2] ~= ARGV[5] then
  return { 'illegal', now[1], now[2] or '' }
end

redis.call('HSET', KEYS[1], 'f:approved_by', ARGV[2], 'f:approved_ms', ARGV[4],
  'f:approval_seal', ARGV[6], 'updated_ms', ARGV[4],
  'attention', '', 'reason', '', 'attempts', '0', 'deaths', '0', 'lease_until_ms', '0', 'lease_who', '')
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
history_append(KEYS[2], ARGV[4], ARGV[2], 'QUEUED', 'QUEUED', ARGV[3])
return { 'ok', redis.call('HGETALL', KEYS[1]) }
