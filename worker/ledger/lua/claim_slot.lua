-- The first caller of a strategy's fire time gets it, nobody after.
--
-- The newest slots are remembered one by one; below the newest of the forgotten ones (the floor) every slot counts as
-- taken, so the index stays small and still never says yes twice.
--
-- KEYS  slots, floor
-- ARGV  fire time (unix seconds), intent id, how many to remember
-- Returns 1 or 0.

local floor = redis.call('GET', KEYS[2])
if floor and tonumber(ARGV[1]) <= tonumber(floor) then
  return 0
end
if redis.call('ZCOUNT', KEYS[1], ARGV[1], ARGV[1]) > 0 then
  return 0
end

redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1] .. ':' .. ARGV[2])
local excess = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if excess > 0 then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, excess - 1, 'WITHSCORES')
  redis.call('SET', KEYS[2], oldest[#oldest])
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, excess - 1)
end
return 1
