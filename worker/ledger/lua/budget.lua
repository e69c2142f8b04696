-- Budgets: per counter of a session what is spent and what is reserved.
--
-- One hash per session, fields `<counter>|spent`, `|reserved`, `|limit`, `|token`, `|policy`, and `|elsewhere`: what the
-- chain has counted beyond the books (book.lua), which leaves as much less. A plan collects the new
-- values of every counter that a script touches, so that nothing is written before everything is known to be right:
-- Redis does not undo the writes of a script that fails half-way.
--
-- A trade over several chains also counts in the budgets of its source chains' sessions: such a change names its
-- `session` (16 hex digits).

local ZERO = { 0 }

-- The plan's entry of one change's counter, read from Redis on first use.
local function plan_entry(plan, budget_key, change)
  local key, counter = budget_key, change.counter
  if change.session and change.session ~= '' then
    key = 'sx:{' .. change.session .. '}:budget'
  end
  local name = key .. '|' .. counter
  local entry = plan[name]
  if not entry then
    local now = redis.call('HMGET', key, counter .. '|spent', counter .. '|reserved', counter .. '|elsewhere')
    entry = {
      key = key, counter = counter,
      spent = now[1] and big_parse(now[1]) or ZERO, reserved = now[2] and big_parse(now[2]) or ZERO,
      elsewhere = now[3] and big_parse(now[3]) or ZERO,
    }
    plan[name] = entry
  end
  return entry
end

-- Add the changes as reservations. Returns nil, or what broke: {index, spent, reserved, elsewhere} of the first change
-- with spent + elsewhere + reserved + amount > limit. Changes of one batch on the same counter add up.
local function plan_reserve(plan, budget_key, changes)
  for index, change in ipairs(changes) do
    local entry = plan_entry(plan, budget_key, change)
    local limit = big_parse(change.limit)
    local reserved = big_add(entry.reserved, big_parse(change.amount))
    local total = big_add(big_add(entry.spent, entry.elsewhere), reserved)
    if big_compare(limit, MAX_UINT256) > 0 or big_compare(total, limit) > 0 then
      return { tostring(index), big_text(entry.spent), big_text(entry.reserved), big_text(entry.elsewhere) }
    end
    entry.reserved = reserved
    if not entry.limit or big_compare(entry.limit, limit) < 0 then
      entry.limit = limit
    end
    entry.token, entry.policy = change.token, change.policy
  end
  return nil
end

-- Take the changes out of the reservations; with `spend` they become spending.
local function plan_release(plan, budget_key, changes, spend)
  for _, change in ipairs(changes) do
    local entry = plan_entry(plan, budget_key, change)
    local amount = big_parse(change.amount)
    entry.reserved = big_subtract(entry.reserved, amount)
    if not entry.reserved then
      error('SX_INCONSISTENT less is reserved than a record holds: ' .. change.counter)
    end
    if spend then
      entry.spent = big_add(entry.spent, amount)
      if big_compare(entry.spent, MAX_UINT256) > 0 then
        error('SX_INCONSISTENT spending beyond 2^256-1: ' .. change.counter)
      end
    end
  end
end

-- Write the plan.
local function plan_apply(plan)
  for _, entry in pairs(plan) do
    local counter = entry.counter
    redis.call('HSET', entry.key, counter .. '|spent', big_text(entry.spent),
      counter .. '|reserved', big_text(entry.reserved))
    if entry.limit then
      redis.call('HSET', entry.key, counter .. '|limit', big_text(entry.limit),
        counter .. '|token', entry.token, counter .. '|policy', entry.policy)
    end
  end
end

-- The changes that a record or an argument holds as JSON; every number in it is a string.
local function changes_of(json)
  if not json or json == '' then
    return {}
  end
  return cjson.decode(json)
end
