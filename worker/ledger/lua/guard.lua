-- Guardrails of our own that count over time: rolling caps, trades in flight, cooldown.
--
-- A scope is `session` or `strategy:<name>`. What a trade takes is *held* from its reservation on, and counts as taken
-- within the rolling windows from the moment at which it was settled: it was executed between the two, so no stretch of
-- time of a window's length ever holds executions for more than the cap. What failed is forgotten.
--
-- guard hash   `<scope>|<token>|held`, `|hour`, `|day`, `|week`   decimal amounts
--              `<scope>|flight`                                   number of trades in flight
--              `<scope>|last`                                     start of the latest settled trade (unix ms)
--              `now`, `hour@`, `day@`, `week@`                    the clock, and up to where each window has moved on
-- flight zset  `<intent id>|<scope>` of trades in flight, by their start (unix ms)
-- spent zset   `<amount>|<token>|<intent id>|<scope>` of settled trades, by time (unix ms), for a week
--
-- Everything is counted whether or not a guardrail is set, so that one that is set later holds for what came before. As
-- in budget.lua a plan collects the new values, and nothing is written before everything is known to be right.

local WINDOWS = { 'hour', 'day', 'week' }
local WINDOW_MS = { hour = 3600000, day = 86400000, week = 604800000 }

-- A time as text: Lua would print 1.8e+12.
local function ms_text(ms)
  return string.format('%.0f', ms)
end

-- The plan's amount in a field of the guard hash, read from Redis on first use.
local function guard_sum(plan, field)
  local sum = plan.sums[field]
  if not sum then
    local text = redis.call('HGET', plan.guard_key, field)
    sum = text and big_parse_sum(text) or ZERO
    plan.sums[field] = sum
  end
  return sum
end

-- The plan's number in a field: a count or a time, never an amount.
local function guard_number(plan, field)
  local number = plan.numbers[field]
  if not number then
    number = tonumber(redis.call('HGET', plan.guard_key, field) or '0')
    plan.numbers[field] = number
  end
  return number
end

-- A plan at a time (unix ms). The windows move on to it; a clock that is behind another worker's does not move them back.
local function guard_plan(guard_key, flight_key, spent_key, now_text)
  local plan = {
    guard_key = guard_key, flight_key = flight_key, spent_key = spent_key,
    sums = {}, numbers = {}, start = {}, stop = {}, settle = {},
  }
  local stored = redis.call('HMGET', guard_key, 'now', 'hour@', 'day@', 'week@')
  plan.now = math.max(tonumber(now_text), tonumber(stored[1] or '0'))
  plan.numbers['now'] = plan.now
  for index, window in ipairs(WINDOWS) do
    local from, to = tonumber(stored[index + 1] or '0'), plan.now - WINDOW_MS[window]
    if to > from then
      plan.numbers[window .. '@'] = to
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', spent_key, '(' .. ms_text(from), ms_text(to))) do
        local amount, token, _, scope = string.match(member, '^(%d+)|([^|]*)|([^|]*)|(.*)$')
        local field = scope .. '|' .. token .. '|' .. window
        local left = big_subtract(guard_sum(plan, field), big_parse(amount))
        if not left then
          error('SX_INCONSISTENT less was taken than has left the window: ' .. field)
        end
        plan.sums[field] = left
      end
    end
  end
  return plan
end

-- Start of the latest trade of a scope that is in flight or was settled, 0 if there is none after `since`.
local function guard_latest(plan, scope, since)
  local latest = guard_number(plan, scope .. '|last')
  for _, member in ipairs(redis.call('ZREVRANGEBYSCORE', plan.flight_key, '+inf', '(' .. ms_text(since))) do
    if string.match(member, '^[^|]*|(.*)$') == scope then
      return math.max(latest, tonumber(redis.call('ZSCORE', plan.flight_key, member)))
    end
  end
  return latest
end

-- The plans of one script: the intent's own session's, and those of sessions that a charge names (16 hex digits), for a
-- trade over several chains.
local function guards_at(guard_key, flight_key, spent_key, session_key, now_text)
  return { own = { guard_key, flight_key, spent_key, session_key }, now_text = now_text, plans = {} }
end

-- The plan of a charge's session, made on first use, and the key that holds its guardrails as they are now.
local function guard_of(guards, charge)
  local session = charge.session or ''
  local found = guards.plans[session]
  if not found then
    local keys = guards.own
    if session ~= '' then
      local tag = 'sx:{' .. session .. '}:'
      keys = { tag .. 'guard', tag .. 'flight', tag .. 'spent', tag .. 'session' }
    end
    found = { guard_plan(keys[1], keys[2], keys[3], guards.now_text), keys[4] }
    guards.plans[session] = found
  end
  return found[1], found[2]
end

-- Hold what a trade takes, in every scope. Returns nil, or the first guardrail that says no:
-- {index of the scope, kind, token, limit, used}.
local function guard_hold(guards, id, scopes)
  for index, charge in ipairs(scopes) do
    local scope = charge.scope
    local plan, session_key = guard_of(guards, charge)
    if redis.sha1hex(redis.call('HGET', session_key, charge.rulesField) or '') ~= charge.rulesSha then
      return { tostring(index), 'changed', '', '0', '0' }
    end
    local flight = guard_number(plan, scope .. '|flight')
    local most = tonumber(charge.maxInFlight)
    if most > 0 and flight >= most then
      return { tostring(index), 'in-flight', '', charge.maxInFlight, ms_text(flight) }
    end
    local cooldown = tonumber(charge.cooldownMs)
    if cooldown > 0 then
      local past = plan.now - guard_latest(plan, scope, plan.now - cooldown)
      if past < cooldown then
        return { tostring(index), 'cooldown', '', charge.cooldownMs, ms_text(past) }
      end
    end
    plan.numbers[scope .. '|flight'] = flight + 1
    plan.start[#plan.start + 1] = id .. '|' .. scope
    for token, amount in pairs(charge.amounts) do
      local field = scope .. '|' .. token
      plan.sums[field .. '|held'] = big_add(guard_sum(plan, field .. '|held'), big_parse(amount))
    end
    for _, cap in ipairs(charge.caps) do
      local field = scope .. '|' .. cap.token
      local total = big_add(guard_sum(plan, field .. '|held'), guard_sum(plan, field .. '|' .. cap.window))
      if big_compare(total, big_parse(cap.limit)) > 0 then
        local used = big_subtract(total, big_parse(charge.amounts[cap.token]))
        return { tostring(index), cap.window, cap.token, cap.limit, big_text(used) }
      end
    end
  end
  return nil
end

-- End what a trade holds; with `spend` it counts in the windows from now on.
local function guard_end(guards, id, scopes, spend)
  for _, charge in ipairs(scopes) do
    local scope = charge.scope
    local plan = guard_of(guards, charge)
    local member = id .. '|' .. scope
    plan.stop[#plan.stop + 1] = member
    plan.numbers[scope .. '|flight'] = math.max(0, guard_number(plan, scope .. '|flight') - 1)
    if spend then
      local started = tonumber(redis.call('ZSCORE', plan.flight_key, member) or '0')
      plan.numbers[scope .. '|last'] = math.max(guard_number(plan, scope .. '|last'), started)
    end
    for token, amount in pairs(charge.amounts) do
      local field = scope .. '|' .. token
      local left = big_subtract(guard_sum(plan, field .. '|held'), big_parse(amount))
      if not left then
        error('SX_INCONSISTENT less is held than a record holds: ' .. field)
      end
      plan.sums[field .. '|held'] = left
      if spend and amount ~= '0' then
        plan.settle[#plan.settle + 1] = amount .. '|' .. token .. '|' .. id .. '|' .. scope
        for _, window in ipairs(WINDOWS) do
          plan.sums[field .. '|' .. window] = big_add(guard_sum(plan, field .. '|' .. window), big_parse(amount))
        end
      end
    end
  end
end

-- Write one plan.
local function guard_write(plan)
  local values = {}
  for field, sum in pairs(plan.sums) do
    values[#values + 1] = field
    values[#values + 1] = big_text(sum)
  end
  for field, number in pairs(plan.numbers) do
    values[#values + 1] = field
    values[#values + 1] = ms_text(number)
  end
  redis.call('HSET', plan.guard_key, unpack(values))
  for _, member in ipairs(plan.start) do
    redis.call('ZADD', plan.flight_key, ms_text(plan.now), member)
  end
  for _, member in ipairs(plan.stop) do
    redis.call('ZREM', plan.flight_key, member)
  end
  for _, member in ipairs(plan.settle) do
    redis.call('ZADD', plan.spent_key, ms_text(plan.now), member)
  end
  redis.call('ZREMRANGEBYSCORE', plan.spent_key, '-inf', ms_text(plan.now - WINDOW_MS.week))
end

-- Write every plan.
local function guard_apply(guards)
  for _, found in pairs(guards.plans) do
    guard_write(found[1])
  end
end
