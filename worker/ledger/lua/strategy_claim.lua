-- One evaluator at a time has a strategy: it gets the lease and a number that makes every older one's writes worthless.
--
-- KEYS  state
-- ARGV  now (unix ms), lease (ms), cursor to begin with (unix seconds)
-- Returns {'ok', field, value, ...} or {'held'}.

local lease = tonumber(redis.call('HGET', KEYS[1], 'lease_ms') or '0')
if lease > tonumber(ARGV[1]) then
  return {'held'}
end
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'lease_ms', tonumber(ARGV[1]) + tonumber(ARGV[2]))
redis.call('HSETNX', KEYS[1], 'cursor', ARGV[3])
local reply = redis.call('HGETALL', KEYS[1])
table.insert(reply, 1, 'ok')
return reply
