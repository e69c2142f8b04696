-- Register a session, once.
--
-- KEYS  the session's hash
-- ARGV  file, sha256 of it, fingerprint, '1' to let a new approval of the same session replace the old one,
--       guardrails of a new session ('' = none); those of one that is there are left as they are
-- Returns created, same, renewed, approval (same session, another approval) or conflict (another session).

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'file', ARGV[1], 'sha256', ARGV[2], 'fingerprint', ARGV[3], 'paused', '0')
  if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[1], 'guardrails', ARGV[5])
  end
  return 'created'
end

local stored = redis.call('HMGET', KEYS[1], 'file', 'fingerprint')
if stored[1] == ARGV[1] then
  return 'same'
end
if stored[2] ~= ARGV[3] then
  return 'conflict'
end
if ARGV[4] ~= '1' then
  return 'approval'
end
redis.call('HSET', KEYS[1], 'file', ARGV[1], 'sha256', ARGV[2])
return 'renewed'
