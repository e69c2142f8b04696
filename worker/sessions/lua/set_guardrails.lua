-- Replace the guardrails of one scope, if they are still those that were looked at.
--
-- KEYS  the session's hash
-- ARGV  field, text that is expected there ('' = none), new text ('' = none)
-- Returns ok, changed (another text is there) or missing (no such session is registered).

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'missing'
end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 'changed'
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 'ok'
