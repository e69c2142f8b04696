-- Take a final record out of Redis, once it is safe in an archive file. What stays is a tombstone: the same key is the
-- same intent for ever.
--
-- KEYS  intent, history, all, counts, archived
-- ARGV  id, the tombstone's field, state, updated ms (both as they were archived), tombstone
-- Returns 'ok', 'missing' or 'changed' (somebody has touched it since it was read).

local now = redis.call('HMGET', KEYS[1], 'state', 'updated_ms')
if not now[1] then
  return 'missing'
end
if now[1] ~= ARGV[3] or now[2] ~= ARGV[4] or not FINAL[now[1]] then
  return 'changed'
end
redis.call('HSET', KEYS[5], ARGV[2], ARGV[5])
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
count_move(KEYS[4], now[1], 'archived')
return 'ok'
