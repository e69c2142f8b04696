-- What the guardrails have counted, as of now. Writes nothing.
--
-- KEYS  guard, flight, spent
-- ARGV  now ms
-- Returns field, value, field, value, ... of the guard hash with the windows moved on.

local guard = guard_plan(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
local values = redis.call('HGETALL', KEYS[1])
for index = 1, #values, 2 do
  local sum = guard.sums[values[index]]
  if sum then
    values[index + 1] = big_text(sum)
  end
end
return values
