-- A notice, once: one that is there already, delivered or not, stays as it is. The oldest go when there are too many.
--
-- KEYS  bodies, list, due
-- ARGV  id, body, now ms, how many to keep
-- Returns 1 if it is new.

if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
if redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[4]) then
  local oldest = redis.call('ZPOPMIN', KEYS[2])[1]
  redis.call('HDEL', KEYS[1], oldest)
  redis.call('ZREM', KEYS[3], oldest)
end
return 1
