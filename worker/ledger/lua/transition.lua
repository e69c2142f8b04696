-- Compare-and-set of a record's state together with its budgets, its due time and its history.
--
-- KEYS  intent, history, open, counts, budget, guard, flight, spent, session
-- ARGV  id, fence, from state, to state, who, why, now ms, due ms, changes to reserve (JSON, '' = none),
--       what the guardrails count (JSON, '' = nothing), the session's number of changes that the caller has seen at
--       least, then name, value, name, value, ... of the fields to store
-- Returns {'ok', number of changes}, {'lost', number of changes}, {'missing'}, {'fence', current fence, state},
-- {'illegal', state}, {'held'} (it has a reservation already), {'limit', index of the change, spent, reserved, elsewhere} or
-- {'guard', index of the scope, kind, token, limit, used}.

local from_state, to_state = ARGV[3], ARGV[4]
local now = redis.call('HMGET', KEYS[1], 'state', 'fence', 'reservation', 'guard')
if not now[1] then
  return { 'missing' }
end
if now[2] ~= ARGV[2] then
  return { 'fence', now[2], now[1] }
end
local seen = tonumber(redis.call('HGET', KEYS[4], 'seq') or '0')
if seen < tonumber(ARGV[11]) then
  return { 'lost', tostring(seen) }
end
if now[1] ~= from_state or not TRANSITIONS[from_state][to_state] then
  return { 'illegal', now[1] }
end
-- A second signature for one intent: only if the first one has never been seen outside, or both could be executed.
if from_state == 'SIGNED' and to_state == 'QUEUED' and (redis.call('HGET', KEYS[1], 'f:sent') or 'unknown') ~= '' then
  return { 'illegal', now[1] }
end

-- Everything is decided before anything is written.
local plan = {}
local guard = nil
local held, guarded = now[3] or '', now[4] or ''
local lets_go = FINAL[to_state] or to_state == 'QUEUED'
if ARGV[9] ~= '' or ARGV[10] ~= '' then
  if lets_go then
    return { 'illegal', now[1] }
  end
  if held ~= '' or guarded ~= '' then
    return { 'held' }
  end
  local broken = plan_reserve(plan, KEYS[5], changes_of(ARGV[9]))
  if broken then
    return { 'limit', unpack(broken) }
  end
  if ARGV[10] ~= '' then
    guard = guards_at(KEYS[6], KEYS[7], KEYS[8], KEYS[9], ARGV[7])
    local stopped = guard_hold(guard, ARGV[1], cjson.decode(ARGV[10]))
    if stopped then
      return { 'guard', unpack(stopped) }
    end
  end
elseif lets_go then
  plan_release(plan, KEYS[5], changes_of(held), to_state == 'COMPLETED')
  if guarded ~= '' then
    guard = guards_at(KEYS[6], KEYS[7], KEYS[8], KEYS[9], ARGV[7])
    guard_end(guard, ARGV[1], cjson.decode(guarded), to_state == 'COMPLETED')
  end
end

redis.call('HSET', KEYS[1], 'state', to_state, 'updated_ms', ARGV[7], 'lease_until_ms', '0', 'lease_who', '',
  'deaths', '0')
plan_apply(plan)
if guard then
  guard_apply(guard)
  redis.call('HSET', KEYS[1], 'guard', ARGV[10])
end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[1], 'reservation', ARGV[9])
elseif lets_go and held ~= '' then
  redis.call('HSET', KEYS[1], 'reservation', '')
  if to_state == 'COMPLETED' then
    -- Kept so that the budgets can be recounted from the records.
    redis.call('HSET', KEYS[1], 'settled', held)
  end
end
if from_state == 'DEAD' then
  -- A replay starts afresh, or it would be dead again at its first claim.
  redis.call('HSET', KEYS[1], 'attempts', '0')
end
for index = 12, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
if FINAL[to_state] then
  redis.call('ZREM', KEYS[3], ARGV[1])
else
  redis.call('ZADD', KEYS[3], ARGV[8], ARGV[1])
end
history_append(KEYS[2], ARGV[7], ARGV[5], from_state, to_state, ARGV[6])
count_move(KEYS[4], from_state, to_state)
-- Only here, where the number was held against what the caller had seen: a number that others can raise would hide a loss.
return { 'ok', tostring(redis.call('HINCRBY', KEYS[4], 'seq', 1)) }
