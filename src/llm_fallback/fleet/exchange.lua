-- One exchange of a member with a fleet, as `state.py` defines it; times are milliseconds.
-- KEYS: meta, members, then one for each claim's resource. ARGV: the request, and a time for tests.
local request = cjson.decode(ARGV[1])
local meta, members = KEYS[1], KEYS[2]
local SILENT_LEASES, FORGOTTEN_MS, KEPT_MS = 3, 3600000, 172800000

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local kept = redis.call('HMGET', meta, 'epoch', 'last', 'drift', 'grants_from')
local epoch, last, drift, grants_from = kept[1], tonumber(kept[2]), tonumber(kept[3] or 0), tonumber(kept[4] or 0)

-- A member: {number, seen, is_active, evidence}.
local known = redis.call('HGET', members, request.member)
known = known and cjson.decode(known)
if known and request.number <= known[1] then
  return '{"overtaken":true}'
end

drift = math.max(drift, (last or 0) - now)
now = now + drift
if not last or now - last > request.lease_ms or request.answered > (known and known[1] or 0) then
  epoch = request.member .. '/' .. string.format('%d', request.number)
  grants_from = now + request.lease_ms
end
redis.call('HSET', meta, 'epoch', epoch, 'last', string.format('%d', now),
  'drift', string.format('%d', drift), 'grants_from', string.format('%d', grants_from))

local is_active = request.active and not request.leaves
redis.call('HSET', members, request.member, cjson.encode({request.number, now, is_active, request.evidence}))
local active, evidence = 0, {}
local all = redis.call('HGETALL', members)
for i = 1, #all, 2 do
  local name, member = all[i], cjson.decode(all[i + 1])
  local silent = now - member[2]
  if silent > FORGOTTEN_MS then
    redis.call('HDEL', members, name)
  else
    if member[3] and silent <= SILENT_LEASES * request.lease_ms then
      active = active + 1
    end
    if name ~= request.member and member[4] ~= '' then
      evidence[#evidence + 1] = {name, silent, member[4]}
    end
  end
end
redis.call('PEXPIRE', meta, KEPT_MS)
redis.call('PEXPIRE', members, KEPT_MS)

-- A member's charges on a resource: '<units>:<until>' joined by spaces. The fence is kept beside them as '#'.
local function sum(charges)
  local total = 0
  for units, till in string.gmatch(charges, '([^: ]+):([^: ]+)') do
    if tonumber(till) > now then total = total + tonumber(units) end
  end
  return total
end

local function charge(units, till)
  return string.format('%.0f:%.0f', units, till)
end

local function granted(claim, charged)
  if now < grants_from then return 0 end
  local free = claim.capacity - charged
  if claim.need > claim.capacity and charged <= 0 then free = claim.need end
  local part = math.max(claim.need - claim.held, math.floor(free / math.max(1, active)))
  local units = math.min(claim.wanted - claim.held, part, free)
  if units > 0 and claim.held + units >= claim.need then return units end
  return 0
end

local function lease(key, claim)
  local latest = now + request.lease_ms + claim.window_ms
  for _, other in ipairs(claim.remembered) do
    if sum(redis.call('HGET', key, other[1]) or '') < other[2] then
      redis.call('HSET', key, other[1], charge(other[2], now + claim.window_ms))
    end
  end
  local own = {}
  for _, used in ipairs(claim.charges) do
    if used[1] > 0 and used[2] > 0 then own[#own + 1] = charge(used[1], now + used[2]) end
  end
  if claim.held > 0 then own[#own + 1] = charge(claim.held, latest) end
  local of_members = redis.call('HGETALL', key)
  local charged, fence, used = 0, claim.fence, {}
  for i = 1, #of_members, 2 do
    local name = of_members[i]
    if name == '#' then
      fence = math.max(fence, tonumber(of_members[i + 1]))
    elseif name ~= request.member then
      local units = sum(of_members[i + 1])
      if units > 0 then
        charged = charged + units
        used[name] = units
      else
        redis.call('HDEL', key, name)
      end
    end
  end
  local mine = sum(table.concat(own, ' '))
  local units = granted(claim, charged + mine)
  if units > 0 then
    own[#own + 1] = charge(units, latest)
    fence = fence + 1
  end
  if #own > 0 then
    redis.call('HSET', key, request.member, table.concat(own, ' '))
    used[request.member] = mine + units
  else
    redis.call('HDEL', key, request.member)
  end
  redis.call('HSET', key, '#', fence)
  redis.call('PEXPIRE', key, math.max(latest - now, FORGOTTEN_MS))
  return {units, charged + mine + units, fence, next(used) ~= nil and used or false}
end

if request.is_news then
  redis.call('PUBLISH', string.gsub(meta, 'meta$', 'news'), cjson.encode({request.member, request.evidence}))
end

local grants = {}
for i, claim in ipairs(request.claims) do
  grants[i] = lease(KEYS[2 + i], claim)
end
return cjson.encode({
  epoch = epoch,
  members = active,
  evidence = #evidence > 0 and evidence or false,
  grants = #grants > 0 and grants or false,
})
