-- The ids of one session whose due time has passed, oldest first; each one's due time moves ahead at once, so that
-- two pollers do not get the same one.
--
-- KEYS  open
-- ARGV  now ms, new due ms, how many at most
-- Returns the ids.

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], ARGV[2], id)
end
return ids
