-- Store fields of a record without a change of state; on request end the lease and move the due time.
--
-- KEYS  intent, open
-- ARGV  id, fence, now ms, due ms ('' = leave), '1' to end the lease ('2': and the attempt was none), then name, value, ...
-- Returns {'ok'}, {'fence', current fence, state} or {'missing'}.

local now = redis.call('HMGET', KEYS[1], 'state', 'fence')
if not now[1] then
  return { 'missing' }
end
if now[2] ~= ARGV[2] then
  return { 'fence', now[2], now[1] }
end

redis.call('HSET', KEYS[1], 'updated_ms', ARGV[3])
for index = 6, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
if ARGV[5] == '2' then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
end
if ARGV[5] ~= '0' then
  redis.call('HSET', KEYS[1], 'lease_until_ms', '0', 'lease_who', '')
end
-- A final record has left the open index and must not come back.
if ARGV[4] ~= '' and not FINAL[now[1]] then
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
end
return { 'ok' }
