-- Take a record for one attempt: a new fence, one more attempt, a lease. Its due time becomes the lease's end.
--
-- KEYS  intent, open
-- ARGV  id, now ms, lease end ms, who, '1' if it may be taken even if an attempt of it has died, then the states that may
--       be claimed
-- Returns {'claimed', flat hash}, {'busy'} (another state, or another attempt's lease runs), {'suspect'} (an attempt at
-- its present state has died) or {'missing'}.

local now = redis.call('HMGET', KEYS[1], 'state', 'lease_until_ms', 'lease_who', 'deaths')
local state = now[1]
if not state then
  return { 'missing' }
end
local wanted = false
for index = 6, #ARGV do
  wanted = wanted or ARGV[index] == state
end
if not wanted or FINAL[state] or tonumber(now[2]) > tonumber(ARGV[2]) then
  return { 'busy' }
end
if ARGV[5] ~= '1' and (now[3] ~= '' or (now[4] or '0') ~= '0') then
  return { 'suspect' }
end

redis.call('HINCRBY', KEYS[1], 'fence', 1)
if now[3] ~= '' then
  -- Every attempt that ends by itself gives its lease back: this one's worker died, or could not write.
  redis.call('HINCRBY', KEYS[1], 'deaths', 1)
end
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'lease_until_ms', ARGV[3], 'lease_who', ARGV[4], 'updated_ms', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return { 'claimed', redis.call('HGETALL', KEYS[1]) }
