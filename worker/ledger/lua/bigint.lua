-- Exact unsigned integers up to 2^256-1.
--
-- A Redis integer has 64 bits and a Lua 5.1 number is a double (53 bits), so an amount is kept in Redis as a decimal
-- string and calculated here as an array of limbs, least significant first, seven decimal digits to a limb: the sum
-- of two limbs and a carry stays far below 2^53.

local LIMB_DIGITS = 7
local LIMB_BASE = 10000000
local MAX_UINT256_TEXT = '115792089237316195423570985008687907853269984665640564039457584007913129639935'

-- Whether `text` is a decimal integer as we write it: digits only, no leading zero, no longer than 2^256-1.
local function big_is_valid(text)
  return type(text) == 'string' and #text <= #MAX_UINT256_TEXT
    and (text == '0' or string.find(text, '^[1-9][0-9]*$') ~= nil)
end

-- Text to limbs, of any length: a sum of amounts that no limit holds may be beyond 2^256-1.
local function big_parse_sum(text)
  if type(text) ~= 'string' or not string.find(text, '^[0-9]+$') then
    error('SX_INCONSISTENT not a sum: ' .. string.sub(tostring(text), 1, 90))
  end
  local limbs = {}
  local last = #text
  while last > 0 do
    local first = math.max(1, last - LIMB_DIGITS + 1)
    limbs[#limbs + 1] = tonumber(string.sub(text, first, last), 10)
    last = first - 1
  end
  return limbs
end

-- Text to limbs. Anything else than what big_is_valid accepts stops the script; callers parse before they write.
local function big_parse(text)
  if not big_is_valid(text) then
    error('SX_INCONSISTENT not an amount: ' .. string.sub(tostring(text), 1, 90))
  end
  return big_parse_sum(text)
end

-- Limbs to text; the inverse of big_parse.
local function big_text(limbs)
  local top = #limbs
  while top > 1 and limbs[top] == 0 do
    top = top - 1
  end
  local parts = { string.format('%d', limbs[top]) }
  for index = top - 1, 1, -1 do
    parts[#parts + 1] = string.format('%07d', limbs[index])
  end
  return table.concat(parts)
end

-- -1, 0 or 1 as a < b, a == b, a > b.
local function big_compare(a, b)
  for index = math.max(#a, #b), 1, -1 do
    local left, right = a[index] or 0, b[index] or 0
    if left ~= right then
      return left < right and -1 or 1
    end
  end
  return 0
end

-- a + b. May exceed 2^256-1; whoever stores a sum compares it with a limit that cannot.
local function big_add(a, b)
  local sum, carry = {}, 0
  for index = 1, math.max(#a, #b) do
    local limb = (a[index] or 0) + (b[index] or 0) + carry
    if limb >= LIMB_BASE then
      sum[index], carry = limb - LIMB_BASE, 1
    else
      sum[index], carry = limb, 0
    end
  end
  if carry > 0 then
    sum[#sum + 1] = carry
  end
  return sum
end

-- a - b, or nil when that is negative.
local function big_subtract(a, b)
  if big_compare(a, b) < 0 then
    return nil
  end
  local difference, borrow = {}, 0
  for index = 1, #a do
    local limb = a[index] - (b[index] or 0) - borrow
    if limb < 0 then
      difference[index], borrow = limb + LIMB_BASE, 1
    else
      difference[index], borrow = limb, 0
    end
  end
  return difference
end

local MAX_UINT256 = big_parse(MAX_UINT256_TEXT)
