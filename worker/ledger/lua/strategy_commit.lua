-- What an evaluator has done about a strategy's slots: fields of its state and slots that are missed, in one step.
--
-- KEYS  state, missed
-- ARGV  fence, how many missed entries to keep, number of missed entries, the entries, field, value, ...
-- Returns 'ok', 'lost' (another evaluator has it) or 'gone' (the strategy was removed).

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'gone'
end
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return 'lost'
end
local missed = tonumber(ARGV[3])
for index = 4, 3 + missed do
  redis.call('RPUSH', KEYS[2], ARGV[index])
end
if missed > 0 then
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[2]), -1)
end
for index = 4 + missed, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
return 'ok'
