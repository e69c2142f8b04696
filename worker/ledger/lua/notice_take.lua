-- Take the notices that are due; whoever dies with them in hand gives them back after the lease.
--
-- KEYS  bodies, due
-- ARGV  now ms, lease ms, how many
-- Returns id, body, id, body, ...

local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local body = redis.call('HGET', KEYS[1], id)
  if body then
    redis.call('ZADD', KEYS[2], ARGV[1] + ARGV[2], id)
    found[#found + 1] = id
    found[#found + 1] = body
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
return found
