-- Store the seals of a record that a person has looked at, if it is still in the state and at the attempt that was read.
--
-- KEYS  intent
-- ARGV  state, fence, then name, value, name, value, ...
-- Returns 1, or 0 if it has moved on.

local now = redis.call('HMGET', KEYS[1], 'state', 'fence')
if now[1] ~= ARGV[1] or now[2] ~= ARGV[2] then
  return 0
end
for index = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
return 1
