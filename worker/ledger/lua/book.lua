-- What the chain says that a counter has counted, against what the books say: the difference was used elsewhere.
--
-- The books must still be those that were read before the chain was asked, or the difference means nothing. Held is the
-- larger of the two sides; `resolve` makes the chain's word what is spent, on an operator's word.
--
-- KEYS  budget, resolutions
-- ARGV  counter, spent and reserved as they were read, what the chain has counted, limit, token, policy,
--       '1' to resolve, the line to keep of it
-- Returns {'ok', elsewhere}, {'changed'} (the books have moved on) or {'busy', reserved} (resolve with trades in flight).

local counter = ARGV[1]
local now = redis.call('HMGET', KEYS[1], counter .. '|spent', counter .. '|reserved', counter .. '|elsewhere')
local spent, reserved = now[1] or '0', now[2] or '0'
if spent ~= ARGV[2] or reserved ~= ARGV[3] then
  return { 'changed' }
end
local counted = big_parse(ARGV[4])
local limit = big_parse(ARGV[5])
local elsewhere = ZERO
if ARGV[8] == '1' then
  if reserved ~= '0' then
    return { 'busy', reserved }
  end
  spent = ARGV[4]
else
  elsewhere = now[3] and big_parse(now[3]) or ZERO
  local beyond = big_subtract(counted, big_parse(spent)) or ZERO
  if reserved == '0' then
    elsewhere = beyond
  elseif big_compare(counted, big_add(big_parse(spent), big_parse(reserved))) > 0 and big_compare(beyond, elsewhere) > 0 then
    -- what is in flight may be in the chain's number already: counted twice until it has ended, never not at all
    elsewhere = beyond
  end
end

redis.call('HSET', KEYS[1], counter .. '|spent', spent, counter .. '|reserved', reserved,
  counter .. '|elsewhere', big_text(elsewhere), counter .. '|token', ARGV[6], counter .. '|policy', ARGV[7])
local stored = redis.call('HGET', KEYS[1], counter .. '|limit')
if not stored or big_compare(big_parse(stored), limit) < 0 then
  redis.call('HSET', KEYS[1], counter .. '|limit', big_text(limit))
end
if ARGV[9] ~= '' then
  redis.call('RPUSH', KEYS[2], ARGV[9])
end
return { 'ok', big_text(elsewhere) }
